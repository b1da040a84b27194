#!/usr/bin/env bash
# An environment with Hydra's Optuna sweeper that sees this project's packages: tools/optuna_env.sh DIRECTORY [PYTHON]
# PYTHON: the interpreter of the project's environment (default .venv/bin/python). It is apart from that one because
# the plugin wants Optuna 2, which is of 2022 and knows SQLAlchemy 1 only.
set -euo pipefail
directory=${1:?usage: tools/optuna_env.sh DIRECTORY [PYTHON]}
here=$(cd "$(dirname "$0")/.." && pwd)
project=${2:-$here/.venv/bin/python}

test -x "$directory/bin/python" || "$project" -m venv "$directory"
packages=$("$project" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
echo "import site; site.addsitedir('$packages')" >"$("$directory/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/project.pth"
"$directory/bin/python" -m pip install --quiet --disable-pip-version-check -c "$here/constraints.txt" \
    hydra-optuna-sweeper==1.3.0 optuna==2.10.1 'sqlalchemy<2'
