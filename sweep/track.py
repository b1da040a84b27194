

class T:
    record = None
    hint = None

    def progress(self, a, b):
        pass

    def results(self, d):
        pass

    def finish(self, failed=False):
        pass


def start(settings, directory, label, group, config, job_type="calibrate"):
    return T()
