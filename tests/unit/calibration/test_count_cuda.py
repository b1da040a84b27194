"""The kernel for CUDA devices, without one: in numba's simulator, and compiled to PTX. tests/gpu has it on a device."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from numba import types

from sweep.calibration import count_cuda
from sweep.calibration.cuda_rows import COLUMNS, tables
from sweep.calibration.observer import one_of_each
from sweep.models.kernels.conv import lazily
from tests.harness import require, simulated
from tests.launches import empty


def test_in_the_simulator_it_finds_what_torch_finds() -> None:
    assert len(simulated(Path(__file__).with_name("count_cuda_on_cpu.py"))) == 8


@pytest.mark.parametrize("like", [types.float32, types.int16, types.uint16], ids=str)
def test_it_compiles_for_a_device(monkeypatch: pytest.MonkeyPatch, like: types.Type) -> None:
    """Counts go to shared memory, in the loop over plain values as in that over a convolution's; the values ahead go
    into registers, and a block's share of memory is one that every device since 2017 has."""
    require(find_spec("nvidia"), "NVIDIA's compiler is not installed: pip install 'numba-cuda[cu13]'")
    from numba import cuda

    hopper = (9, 0)
    monkeypatch.setattr("numba.cuda.dispatcher.get_current_device", lambda: SimpleNamespace(compute_capability=hopper))
    ptx, _ = cuda.compile_ptx(count_cuda._count.py_func, (types.int64,) * 5 + (like,), cc=hopper)
    assert ptx.count("atom.shared.add.u32") == 2 * count_cuda.AHEAD
    assert ".local" not in ptx
    shared = sum(int(line.split("[")[-1].split("]")[0]) for line in ptx.splitlines() if ".shared .align" in line)
    assert shared <= 48 * 1024


def test_the_table_of_a_launch_tells_where_each_site_lies() -> None:
    joint = torch.zeros(20, 7, 300, dtype=torch.bfloat16)
    x, b, c = joint[..., 100:].split([130, 64, 6], -1)
    other = torch.zeros(3, 5, 40, dtype=torch.bfloat16)
    weight, bias = torch.zeros(200, 1, 3, dtype=torch.bfloat16), torch.zeros(200, dtype=torch.bfloat16)
    convolved = lazily(joint[..., 100:], weight, bias)[1][..., 130:194]
    rows = [empty(t, before) for t, before in ((x, 0), (b, 0), (c, 0), (other, 12), (convolved, 0))]
    (table,) = tables(rows)
    words, lines = table.words, [table.words[i * COLUMNS : (i + 1) * COLUMNS] for i in range(5)]
    assert (table.dtype, table.rows) == (torch.bfloat16, 5)
    assert table.blocks == (3 + 1 + 1) * 8 + 1 * 3 + 8
    assert [line[0] for line in lines] == [0, 24, 32, 40, 43]  # the first block of each
    assert [line[1] - joint.data_ptr() for line in lines[:3]] == [2 * 100, 2 * 230, 2 * 294]  # in place, in bytes
    assert lines[4][1:8] == lines[1][1:8]  # a convolution's result is made of what enters
    assert [line[2:8] for line in lines[:4]] == [
        [2100, 300, 1, 20, 7, 130],
        [2100, 300, 1, 20, 7, 64],
        [2100, 300, 1, 20, 7, 6],
        [200, 40, 1, 3, 5, 40],
    ]
    for line, row in zip(lines, rows, strict=True):
        kept = row.counts, row.low, row.high, row.abs_sum, row.text_mean, row.strange
        assert line[8:14] == [tensor.data_ptr() for tensor in kept]
        assert line[14] == row.texts_before
    sums = [0, 20 * 130, 20 * 194, 20 * 200, 20 * 200 + 3 * 40]
    assert [line[15] - table.text_sums.data_ptr() for line in lines] == [8 * before for before in sums]
    assert len(table.text_sums) == 20 * 200 + 3 * 40 + 20 * 64
    assert [line[16] for line in lines] == [5 * COLUMNS + before for before in (0, 3, 4, 5, 6)]
    assert words[5 * COLUMNS :] == [0] * 7  # a ticket for each stretch of channels
    assert [line[17:] for line in lines[:4]] == [[0] * 6] * 4
    assert lines[4][17:] == [weight.data_ptr() + 2 * 3 * 130, 3, 1, bias.data_ptr() + 2 * 130, 3, 1]


def test_one_launch_counts_all_sites_of_a_hook_and_no_site_twice() -> None:
    tensors = [torch.zeros(2, 3, n + 1) for n in range(4)]
    first = [((0, site), x) for site, x in zip("abcd", tensors, strict=True)]
    assert one_of_each(first) == [dict(first)]
    again = [((0, "a"), tensors[0]), ((0, "a"), tensors[0]), ((0, "b"), tensors[1])]
    assert [list(launch) for launch in one_of_each(again)] == [[(0, "a"), (0, "b")], [(0, "a")]]


def test_sites_of_several_dtypes_are_a_launch_each_and_empty_ones_none() -> None:
    rows = [empty(torch.zeros(2, 3, 4, dtype=d)) for d in (torch.float32, torch.bfloat16, torch.float32)]
    rows.append(empty(torch.zeros(0, 3, 4)))
    assert [(table.dtype, table.rows) for table in tables(rows)] == [(torch.float32, 2), (torch.bfloat16, 1)]
