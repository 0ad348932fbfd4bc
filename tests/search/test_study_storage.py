"""What storages may hold, refuse and show: broken journals, full disks, refused locks, passwords, two searches at once."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import textwrap
import traceback
from pathlib import Path

import optuna
import pytest

from nas.cli import main
from nas.errors import ConfigError, NasError
from nas.locks import LockedError
from nas.search import open_storage, run
from nas.search import storage as storages
from nas.search.storage import StorageError
from tests.support.forked import run_python, start_python
from tests.support.instances import make


@pytest.fixture(scope="module")
def search():
    space, cost, budget, table = make(0, 6, 4, share=0.3)
    return space, cost, table, budget


# -- what a journal may hold --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rest", [b'{"op_code": 4, "torn', b"garbage\n", b"\0" * 64, b"[1]\nnull\n", b'{"op_code": 99}\n']
)
def test_unreadable_last_lines_are_dropped(search, tmp_path, rest):
    journal = tmp_path / "a.journal"
    whole = run(*search, trials=5).frame
    run(*search, trials=3, storage=journal)
    before = journal.read_bytes()
    journal.write_bytes(before + rest)
    open_storage(journal)
    assert journal.read_bytes() == before
    assert run(*search, trials=5, storage=journal).frame.equals(whole)


@pytest.mark.parametrize(
    "content", [b"slot,choice,score\na,b,1\n", b"no line end", b'{"scores": {}}', b"\xff\xfe\n", b"[]"]
)
def test_other_files_are_refused_and_left_alone(search, tmp_path, content):
    (tmp_path / "scores.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"scores\.json: not a study's journal; give another --storage"):
        run(*search, trials=3, storage=tmp_path / "scores.json")
    assert (tmp_path / "scores.json").read_bytes() == content


def damage(entry):
    """Ways to break an entry of a journal."""
    kinds = [None, "text", -7, [1]]
    for key in entry.keys() - {"worker_id"}:
        yield {k: v for k, v in entry.items() if k != key}
        yield from (entry | {key: kind} for kind in kinds)


@pytest.mark.slow
def test_broken_entries_never_end_in_a_traceback(search, tmp_path, capsys):
    journal = tmp_path / "a.journal"
    run(*search, trials=3, storage=journal, sampler="random")
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    kinds = {line["op_code"]: i for i, line in enumerate(lines)}
    refused = 0
    for at in kinds.values():
        for broken in damage(lines[at]):
            journal.write_text("".join(json.dumps(line) + "\n" for line in [*lines[:at], broken, *lines[at + 1 :]]))
            try:
                run(*search, trials=3, storage=journal, sampler="random")
            except NasError as error:
                assert str(journal) in str(error) and "\n" not in str(error)
                refused += 1
    assert refused > 20


@pytest.mark.parametrize(
    ("field", "value"),
    [("score", "high"), ("error", [1]), ("reused", 5), ("constraints:runs", "no"), ("fixed_params", 3)],
)
def test_attributes_of_the_wrong_type_are_refused(search, tmp_path, field, value):
    journal = tmp_path / "a.journal"
    study = run(*search, trials=2, storage=journal).study
    trial = study.ask()
    if field == "score":
        lines = journal.read_text().splitlines()
        lines = [line.replace('"values":[', '"values":["high",') if '"values":[' in line else line for line in lines]
        journal.write_text("\n".join(lines) + "\n")
    elif field in ("error", "reused"):
        trial.set_user_attr(field, value)
    else:
        study._storage.set_trial_system_attr(trial._trial_id, field, value)
    with pytest.raises(ConfigError, match=rf"a\.journal: study 'nas': trial \d: {field}: cannot be "):
        run(*search, trials=4, storage=journal)


# -- what fails while it is used ----------------------------------------------------------------------------------------


def test_a_full_disk_is_one_line_and_loses_nothing(search, tmp_path, monkeypatch):
    journal, written = tmp_path / "a.journal", []
    whole = run(*search, trials=6).frame

    def full(file, data):
        written.append(data)
        if len(written) > 14:
            os.write(file, data[:20])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.write(file, data)

    with monkeypatch.context() as patch:
        patch.setattr(storages, "_write", full)
        with pytest.raises(StorageError, match=r"a\.journal: .*No space left on device; free some space.* is kept"):
            run(*search, trials=6, storage=journal)
    assert journal.read_bytes().endswith(b"}\n")
    assert run(*search, trials=6, storage=journal).frame.equals(whole)


def test_a_full_database_is_one_line(search, tmp_path):
    url = f"sqlite:///{tmp_path / 'a.db'}"
    run(*search, trials=1, storage=url)
    code = f"""
        import resource, signal, sys
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        sys.path.insert(0, {str(Path(__file__).parents[2])!r})
        from tests.support.instances import make
        from nas.search import run
        from nas.search.storage import StorageError
        space, cost, budget, table = make(0, 6, 4, share=0.3)
        size = {os.path.getsize(tmp_path / "a.db")} + 4096
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        try:
            run(space, cost, table, budget, trials=200, storage={url!r})
        except StorageError as error:
            print(error)
    """
    done = run_python(textwrap.dedent(code), folder=tmp_path)
    assert "a.db: the study's database failed (" in done.stdout, done.stderr
    assert "what finished is kept" in done.stdout


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL])
def test_filesystems_without_flock(search, tmp_path, monkeypatch, number):
    def refused(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refused)
    assert len(run(*search, trials=3, storage=tmp_path / "a.journal").frame) == 3
    assert len(run(*search, trials=4, storage=tmp_path / "a.journal").frame) == 4


def test_a_lock_that_fails_is_let_go(tmp_path):
    (tmp_path / "folder").mkdir()
    lock = storages._FileLock(tmp_path / "folder")
    for _ in range(2):
        with pytest.raises(OSError):
            lock.acquire()


# -- passwords ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://bob:hunt%40er2@localhost/db",
        "mysql+pymysql://bob:hunt@er2@localhost:1/db?password=hunt%40er2",
        "nothing://bob:hunter2@localhost/db",
        "postgresql://bob:hunter2@localhost:port/db",
        "postgresql:/bob:hunter2@localhost/db",
    ],
)
def test_passwords_are_not_printed(search, url):
    with pytest.raises(NasError) as caught:
        run(*search, trials=1, storage=url)
    text = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    chain, error = [], caught.value
    while error is not None:
        chain.append(str(error))
        error = error.__cause__ or error.__context__
    said = str(caught.value) + repr(caught.value) + "".join(chain)
    assert not any(secret in said for secret in ("hunter2", "hunt%40er2", "hunt@er2")), text
    assert "***" in said


def test_passwords_are_not_printed_on_success(search, tmp_path, capsys):
    folder = write_inputs(search, tmp_path)
    assert main([*folder, "--storage", f"sqlite:///{tmp_path}/a.db?password=hunter2"]) == 0
    said = capsys.readouterr()
    assert "hunter2" not in said.out + said.err
    assert "a.db?password=***" in said.out


# -- the command, and two searches at once ------------------------------------------------------------------------------


def write_inputs(search, folder, out="best.json"):
    space, cost, table, _ = search
    space.save(folder / "space.yaml")
    cost.table.save(folder / "t.csv")
    (folder / "scores.json").write_text(json.dumps({"scores": table.scores}))
    (folder / "others.json").write_text(json.dumps({"scores": {"s0": {"o0": 1.0}}}))
    words = (
        "search --space {d}/space.yaml --table {d}/t.csv --budget latency<=80% --evaluator {d}/scores.json --trials 4"
    )
    return [*words.format(d=folder).split(), "--out", str(folder / out)]


def test_side_files_carry_the_whole_name(search, tmp_path, capsys):
    first = write_inputs(search, tmp_path, "best.v1")
    other = [word.replace("scores.json", "others.json") for word in write_inputs(search, tmp_path, "best.v2")]
    assert main(first) == main(other) == 0
    assert (tmp_path / "best.v1.journal").exists() and (tmp_path / "best.v2.journal").exists()
    assert (tmp_path / "best.v1").read_text() != (tmp_path / "best.v2").read_text()
    capsys.readouterr()
    assert main([word.replace("scores.json", "others.json") for word in first]) == 2
    assert "was begun with evaluator ScoreTable" in capsys.readouterr().err


def test_the_summary_counts_failures_and_known_scores(search, tmp_path, capsys):
    words = write_inputs(search, tmp_path)
    code = "import json,sys; c = json.load(open(sys.argv[1]))['choices']; print('null' if c['s0'] == 'o1' else len(str(c)))"
    (tmp_path / "score.py").write_text(code)
    words[words.index("--evaluator") + 1] = f"{sys.executable} {tmp_path / 'score.py'} {{arch}}"
    words[words.index("--trials") + 1] = "12"
    assert main(words) == 0
    assert "of 12 trials failed, and their architectures are excluded; the first one with: " in capsys.readouterr().out
    words[words.index("--budget") + 1] = "latency<=70%"
    assert main(words) == 2  # the journal beside --out is of one search
    assert main([*words, "--storage", str(tmp_path / "best.json.journal")]) == 0
    assert "scores were known" in capsys.readouterr().out


SHARED = """
    import sys, time
    sys.path.insert(0, {tests!r})
    from tests.support.instances import make
    from nas.search import run
    space, cost, budget, table = make(0, 6, 4, share=0.3)
    def slow(arch):
        time.sleep(0.05)
        return table(arch)
    slow.identity = "slow"
    run(space, cost, slow, budget, trials=16, storage={storage!r}, join={join}, seed={seed})
"""


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_a_second_search_is_refused_or_joins(search, tmp_path, kind):
    storage = str(tmp_path / "a.journal") if kind == "journal" else f"sqlite:///{tmp_path / 'a.db'}"

    def start(join, seed):
        code = SHARED.format(tests=str(Path(__file__).parents[2]), storage=storage, join=join, seed=seed)
        return start_python(textwrap.dedent(code))

    space, cost, table, budget = search
    others = []

    def starts_others(arch):
        if not others:
            others.append(start(False, 1))
            others.append(others[0].finish().stderr)
            others.append(start(True, 2))
        return table(arch)

    starts_others.identity = "slow"
    run(space, cost, starts_others, budget, trials=16, storage=storage, seed=0)
    joined, refused = others[2], others[1]
    assert joined.wait(120) == 0, joined.stderr.read_text()
    assert others[0].wait() and "LockedError" in refused and "--join" in refused
    states = [t.state.name for t in optuna.load_study(study_name="nas", storage=open_storage(storage)).trials]
    assert states == ["COMPLETE"] * 16
    assert not [file for file in os.listdir(tmp_path) if file.endswith(".lock")]


def test_a_search_in_this_process_holds_its_journal(search, tmp_path):
    journal = tmp_path / "a.journal"
    code = f"from nas.locks import output_lock\nwith output_lock({str(journal)!r}): print('held', flush=True); input()"
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    with pytest.raises(LockedError, match=r"a\.journal: .* is writing to it; .*join it with --join"):
        run(*search, trials=2, storage=journal)
    assert len(run(*search, trials=2, storage=journal, join=True).frame) == 2
    other.communicate("\n")
    assert len(run(*search, trials=3, storage=journal).frame) == 3
