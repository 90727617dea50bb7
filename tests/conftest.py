"""Test files run in several processes side by side, one for each core (S21K_TEST_PROCESSES=1: one after the other, in
this process).

One thread for each process: their tensors are tiny.
"""
import json
import multiprocessing.connection
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
# Those that take minutes begin first.
LONG = ("test_processes", "test_commands", "test_faults", "test_setups", "test_pretended", "test_experiments",
        "test_audit")


class Sender:
    """In a process that runs tests: each report goes to the one that was started."""

    def __init__(self, config: pytest.Config, pipe) -> None:
        self.config, self.pipe = config, pipe

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.pipe.send(json.dumps(self.config.hook.pytest_report_to_serializable(config=self.config, report=report),
                                  default=str))


def run_files(session: pytest.Session, files: list[list[pytest.Item]], taken, pipe) -> None:
    """Take the next file that nobody has, until none is left. Each file's fixtures are ended with it."""
    capture = session.config.pluginmanager.getplugin("capturemanager")
    capture.stop_global_capturing()                     # its files are shared with the process that was forked
    capture.start_global_capturing()
    session.config.pluginmanager.unregister(name="terminalreporter")
    session.config.pluginmanager.register(Sender(session.config, pipe))
    while True:
        with taken.get_lock():
            number, taken.value = taken.value, taken.value + 1
        if number >= len(files):
            break
        for item, following in zip(files[number], [*files[number][1:], None]):
            session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
    pipe.send("done")
    pipe.close()
    os._exit(0)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    by_file: dict[str, list[pytest.Item]] = {}
    for item in session.items:
        by_file.setdefault(item.path.stem, []).append(item)
    processes = min(int(os.environ.get("S21K_TEST_PROCESSES", os.cpu_count() or 1)), len(by_file))
    if processes < 2 or session.config.option.collectonly or session.testsfailed:
        return None                                     # pytest's own loop
    files = [by_file[name]
             for name in sorted(by_file, key=lambda name: (LONG.index(name) if name in LONG else len(LONG), name))]
    session.config._tmp_path_factory.getbasetemp()      # one for all, which is removed at the end
    context = multiprocessing.get_context("fork")
    taken, workers = context.Value("i", 0), {}
    for _ in range(processes):
        ours, theirs = context.Pipe(duplex=False)
        worker = context.Process(target=run_files, args=(session, files, taken, theirs))
        worker.start()
        theirs.close()
        workers[ours] = worker
    while workers:
        for pipe in multiprocessing.connection.wait(list(workers)):
            try:
                message = pipe.recv()
            except EOFError:
                raise RuntimeError(f"a process that runs tests died (exit code {workers[pipe].exitcode})") from None
            if message == "done":
                workers.pop(pipe).join()
                continue
            report = session.config.hook.pytest_report_from_serializable(config=session.config,
                                                                         data=json.loads(message))
            if isinstance(report.longrepr, list):       # of a skipped test; JSON has no tuples
                report.longrepr = tuple(report.longrepr)
            session.config.hook.pytest_runtest_logreport(report=report)
        if session.shouldfail:                          # -x
            for worker in workers.values():
                worker.terminate()
            raise session.Failed(session.shouldfail)
    return True
