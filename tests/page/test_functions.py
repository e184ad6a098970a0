"""The viewer's functions by themselves: words for times, lanes, the critical path."""

import itertools
import random
from typing import TYPE_CHECKING

import pytest
import records

if TYPE_CHECKING:
    from playwright.sync_api import Page

# What a record may say that a task waits for.
KINDS = ("sleep", "socket", "lock", "queue", "executor", "task", "gather", "process", "future", "ready")


def test_spans_in_words(functions: "Page") -> None:
    spans = {
        0: "0",
        0.4: "0.4 µs",
        41: "41 µs",
        999.6: "1.00 ms",
        4_120: "4.12 ms",
        41_200: "41.2 ms",
        412_000: "412 ms",
        999_600: "1.00 s",
        2_001_190: "2.00 s",
        59_960_000: "1 min 0 s",
        200_000_000: "3 min 20 s",
        7_260_000_000: "2 h 1 min",
    }
    assert {span: functions.evaluate("spanText", span) for span in spans} == spans


def test_axes_have_round_steps(functions: "Page") -> None:
    for span, marks, step in (
        (2e6, 6, 5e5),
        (1e3, 6, 200),
        (10, 8, 2),
        (3.6e9, 6, 6e8),
        (7.2e11, 6, 1.728e11),
    ):
        assert functions.evaluate("([span, marks]) => axisStep(span, marks)", [span, marks]) == pytest.approx(
            step
        )
    assert functions.evaluate("momentText(1_500_040, 20)") == "1.50004 s"
    assert functions.evaluate("momentText(1_500, 100)") == "1.5 ms"
    assert functions.evaluate("momentText(500_000, 500_000)") == "0.5 s"


def test_every_kind_of_wait_has_its_words(functions: "Page") -> None:
    known = functions.evaluate("KINDS.map(({ name }) => name)")
    assert set(KINDS) <= set(known)
    words = functions.evaluate("KINDS.map(({ did, label }) => [did, label])")
    assert len({tuple(pair) for pair in words}) == len(known)


def test_lanes_hold_all_and_nothing_overlaps(functions: "Page") -> None:
    dice = random.Random(3)
    record = records.Record()
    spans = []
    for _ in range(500):
        begin = dice.randrange(10_000)
        spans.append((begin, begin + dice.choice((1, 50, 700))))
    for begin, end in sorted(spans):
        record.task("handle", begin, end)
    lanes, peak = functions.evaluate(
        "(record) => { const { groups } = new Rows(new Model(record));"
        " return [groups[0].lanes.map(({ tasks }) => Array.from(tasks)), groups[0].peak]; }",
        record.finish(11_000),
    )
    assert sorted(task for lane in lanes for task in lane) == list(range(500))
    begins, ends = record.tasks["begin"], record.tasks["end"]
    for lane in lanes:
        for before, after in itertools.pairwise(lane):
            assert ends[before] <= begins[after]
    events = sorted([(end, -1) for _, end in spans] + [(begin, 1) for begin, _ in spans])
    most = alive = 0
    for _, by in events:
        alive += by
        most = max(most, alive)
    assert len(lanes) == peak == most


def test_how_much_of_the_time_a_group_ran(functions: "Page") -> None:
    record = records.Record()
    for number in range(20):
        task = record.task("handle", number, 1_000)
        record.run(task, 100 + 10 * number, 105 + 10 * number)
        record.run(task, 600 + number, 601 + number)
    other = record.task("other", 0, 1_000)
    record.run(other, 300, 400)
    covered = functions.evaluate(
        "(record) => { const { groups } = new Rows(new Model(record));"
        " return [[0, 100], [100, 300], [200, 203], [300, 400], [600, 620]]"
        ".map(([from, to]) => groups[0].running.covered(from, to)); }",
        record.finish(1_000),
    )
    assert covered == pytest.approx([0, 100, 3, 0, 20])


def path(functions: "Page", record: dict[str, object]) -> list[tuple[int, str, float, float]]:
    steps = functions.evaluate(
        "(record) => { const model = new Model(record); return criticalPath(model).map(({ task, segment, begin, end }) =>"
        " [task, KINDS[model.segmentKind[segment]].name, begin, end]); }",
        record,
    )
    return [tuple(step) for step in steps]


def test_the_critical_path_of_the_introduction(functions: "Page") -> None:
    assert path(functions, records.introduction()) == [
        (0, "run", 210, 260),
        (0, "sleep", 260, 2_001_200),
        (0, "run", 2_001_210, 2_001_310),
    ]


def test_the_critical_path_goes_through_what_was_awaited(functions: "Page") -> None:
    """main makes a and b, gathers them, then awaits c; asyncio.run's own task comes after it."""
    record = records.Record()
    main = record.task("main", 0, 1000)
    a = record.task("a", 10, 300, parent=main)
    b = record.task("b", 10, 500, parent=main)
    c = record.task("c", 520, 900, parent=main)
    last = record.task("shutdown_asyncgens", 1001, 1010)
    record.run(main, 0, 20)
    record.wait(main, "gather", 20, 505)
    record.run(main, 505, 530)
    record.wait(main, "task", 530, 905, on=c)
    record.run(main, 905, 1000)
    for task, begin, end in ((a, 20, 300), (b, 25, 500), (c, 535, 900)):
        record.run(task, begin, begin + 1)
        record.wait(task, "sleep", begin + 1, end - 1)
        record.run(task, end - 1, end)
    record.run(last, 1002, 1010)
    steps = path(functions, record.finish(1010))
    tasks = [task for index, (task, *_) in enumerate(steps) if index == 0 or steps[index - 1][0] != task]
    assert tasks == [main, b, main, c, main, last]
    assert a not in tasks
    for before, after in itertools.pairwise(steps):
        assert before[3] <= after[2]


def test_a_task_is_ready_from_its_creation(functions: "Page") -> None:
    record = records.Record()
    for begin in (0, 4_500, 5_000):
        task = record.task("late", begin, 7_000)
        record.run(task, 5_100, 5_200)
        record.wait(task, "sleep", 5_200, 7_000)
    told = functions.evaluate(
        "(record) => { const model = new Model(record); return [0, 1, 2].map((task) => Array.from(model.segmentKind)"
        ".slice(model.first[task], model.first[task + 1]).map((kind) => KINDS[kind].name)); }",
        record.finish(7_000),
    )
    assert told == [["ready", "run", "sleep"], ["run", "sleep"], ["run", "sleep"]]


def test_the_load_is_what_polls_leave(functions: "Page") -> None:
    record = records.Record()
    record.poll(100, 200)
    record.poll(300, 400)
    loads = functions.evaluate(
        "(record) => { const model = new Model(record);"
        " return [[0, 100], [100, 200], [150, 350], [0, 400], [350, 360]].map(([from, to]) => model.load(from, to)); }",
        record.finish(400),
    )
    assert loads == pytest.approx([1, 0, 0.5, 0.5, 0])


def test_there_is_no_load_where_events_were_dropped(functions: "Page") -> None:
    record = records.Record(dropped=1)
    record.run(record.task("old", 0, 400), 300, 310)
    record.poll(320, 400)
    loads = functions.evaluate(
        "(record) => { const model = new Model(record);"
        " return [[0, 300], [300, 320]].map(([from, to]) => model.load(from, to)); }",
        record.finish(400),
    )
    assert loads == pytest.approx([0, 1])


def test_loops_of_several_threads_have_loads_of_their_own(functions: "Page") -> None:
    """Two that follow each other are one lane, and where there is no loop there is no load."""
    record = records.Record()
    for begin, end in ((100, 400), (100, 1000), (500, 600)):
        record.loop(begin, end)
    record.poll(150, 250, 0)
    record.poll(200, 1000, 1)
    record.poll(500, 550, 2)
    loads = functions.evaluate(
        "(record) => new Model(record).loops.map((loop) =>"
        " [[0, 100], [100, 150], [150, 250], [400, 500], [500, 600], [200, 1000]]"
        ".map(([from, to]) => loop.load(from, to)))",
        record.finish(1000),
    )
    assert len(loads) == 2
    assert loads[0] == pytest.approx([0, 1, 0, 0, 0.5, 0.25])
    assert loads[1] == pytest.approx([0, 1, 0.5, 0, 0, 0])
