"""What `whilst top` shows, line by line: pictures of answers, and what keys do to them. Terminals are test_top_terminal.py's."""

import unicodedata
from itertools import pairwise
from typing import Any

import pytest
from answers import Answer, answer, group, loop, metrics, place, task
from whilst._top.keys import press, request
from whilst._top.model import Picture, Pictures
from whilst._top.text import amount, clip, clip_left, duration, harmless, pad, size, width
from whilst._top.view import ASCII, SORTS, Choice, lines, plain_lines


def picture(*tasks: Answer, groups: list[Answer] | None = None, **more: Any) -> Picture:
    """The second of two pictures, a second apart."""
    pictures = Pictures()
    assert pictures.add(answer(10.0, loop(10.0, list(tasks), groups, **more))) is not None
    seen = pictures.add(answer(11.0, loop(11.0, list(tasks), groups, **more)))
    assert seen is not None
    return seen


def screen(
    seen: Picture, choice: Choice | None = None, columns: int = 80, height: int = 24, **more: Any
) -> list[str]:
    drawn = lines(seen, choice or Choice(), columns, height, **more)
    return ["".join(text for text, _ in line).rstrip() for line in drawn]


def keys(pressed: str, choice: Choice, seen: Picture) -> None:
    for key in pressed.split(","):
        assert press({"space": " "}.get(key, key), choice, seen, 24)


class TestText:
    @pytest.mark.parametrize(
        ("hostile", "written"),
        [
            ("plain", "plain"),
            ("\x1b]0;owned\x07", r"\x1b]0;owned\x07"),
            ("a\nb\r\tc", r"a\nb\r\tc"),
            ("\x9b31m", r"\x9b31m"),
            ("a\u202eb\u2066", r"a\u202eb\u2066"),
            ("a\u200db", r"a\u200db"),
            ("\ud800", r"\ud800"),
            ("\u2028", r"\u2028"),
            ("\u00a0", " "),
            ("日本語", "日本語"),
            ("e\u0301", "e\u0301"),
            ("\u2764\ufe0f", "\u2764"),
            ("\U000e0041", r"\U000e0041"),
        ],
    )
    def test_characters_that_could_steer_a_terminal_are_written_out(self, hostile: str, written: str) -> None:
        assert harmless(hostile) == written

    def test_no_character_at_all_gets_through_that_is_a_control_or_a_format(self) -> None:
        seen = set(map(unicodedata.category, harmless("".join(map(chr, range(0x110000))))))
        assert not seen & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}

    def test_widths(self) -> None:
        assert [width(text) for text in ("abc", "日本語", "e\u0301", "", "\uff46", "…")] == [3, 6, 1, 0, 2, 1]

    @pytest.mark.parametrize("text", ["", "abcdef", "日本語テキスト", "ae\u0301io\u0308u", "a日b本c"])
    @pytest.mark.parametrize("columns", range(12))
    def test_clipped_text_fits(self, text: str, columns: int) -> None:
        assert width(clip(text, columns)) <= columns
        assert width(clip_left(text, columns)) <= columns
        assert width(pad(text, columns)) == columns
        if width(text) <= columns:
            assert clip(text, columns) == clip_left(text, columns) == text

    def test_a_clipped_end_does_not_begin_with_a_combining_character(self) -> None:
        assert clip_left("abe\u0301c", 3) == "…e\u0301c"
        assert clip_left("abe\u0301c", 2) == "…c"

    def test_durations(self) -> None:
        seconds = (0, 1e-7, 85e-6, 0.0012, 0.0999, 0.99951, 12.34, 99.96, 125, 3599, 11220, 90000, 1e6)
        assert [duration(one) for one in seconds] == [
            "0 s", "0 s", "85 µs", "1.20 ms", "99.9 ms", "1.00 s", "12.3 s", "1 m 40 s", "2 m 05 s", "59 m 59 s", "3 h 07 m",
            "1 d 1 h", "11 d 13 h",
        ]  # fmt: skip

    def test_sizes_and_amounts(self) -> None:
        assert [size(one) for one in (0, 812, 999.6, 12_340, 999_900_000, 5e15)] == [
            "0 B", "812 B", "1.00 kB", "12.3 kB", "1.00 GB", "5000 TB",
        ]  # fmt: skip
        assert [amount(one) for one in (0, 0.25, 2, 8.26, 9.96, 1234.4, 1_234_567)] == [
            "0", "0.25", "2", "8.3", "10", "1,234", "1.23 M",
        ]  # fmt: skip


class TestTheHead:
    def test_of_a_loop_that_works(self) -> None:
        shown = screen(picture(task(1, "Task-1")))
        assert shown[:5] == [
            "server.py  pid 1234 · Python 3.13.0 · epoll · up 11.0 s",
            "load ████░░░░░░░░░░  25 %   lag 200 µs  longest 2.00 ms in 10 s, 30.0 ms in 60 s",
            "/s   iterations 1,000  callbacks 4,000  in 2.00 MB  out 5.00 kB  wakes 2",
            "now  tasks 1  ready 3  timers 12  transports 10 tcp, 4 tls  servers 1  threads 2",
            "",
        ]

    def test_of_the_first_answer_says_that_rates_are_not_known_yet(self) -> None:
        seen = Pictures().add(answer(10.0, loop(10.0, [])))
        assert seen is not None
        assert screen(seen)[1:3] == [
            "load ░░░░░░░░░░░░░░░░░░░░    ?   lag ?  longest 2.00 ms in 10 s, 30.0 ms in 60 s",
            "/s",
        ]

    def test_of_a_program_that_has_not_taken_times(self) -> None:
        pictures = Pictures()
        untimed = {
            "timed": 0.0,
            "callback_seconds": 0.0,
            "poll_seconds": 0.0,
            "lag_count": 0,
            "lag_seconds": 0.0,
        }
        for time in (1.0, 2.0):
            seen = pictures.add(answer(time, loop(time, [], metrics=metrics(time, **untimed))))
        assert seen is not None and seen.rates is not None
        assert seen.rates.load is None and seen.rates.iterations == 1000
        assert "    ?   lag ?" in screen(seen)[1]

    def test_load_is_the_part_of_the_time_between_two_answers(self) -> None:
        pictures = Pictures()
        for time, busy in ((1.0, 0.9), (2.0, 1.0), (3.0, 1.9)):
            timed = metrics(time, callback_seconds=busy, poll_seconds=time - busy)
            seen = pictures.add(answer(time, loop(time, [], metrics=timed)))
        assert seen is not None and seen.rates is not None
        assert seen.rates.load == pytest.approx(0.9)

    def test_a_loop_that_is_held_is_shown_with_the_programs_own_line(self) -> None:
        where = [
            place("/usr/lib/python3.13/asyncio/runners.py", 195, "run"),
            place("/srv/app.py", 40, "handler"),
            place("/usr/lib/python3.13/socket.py", 719, "readinto"),
        ]
        seen = picture(task(1, "Task-1"), state="running", held=1.234, where=where)
        assert screen(seen)[4] == "held for 1.23 s at app.py:40 handler, in socket.py:719 readinto"
        assert ("bad") in [style for _, style in lines(seen, Choice(), 80, 24)[4]]
        seen = picture(state="running", held=1.234, where=where[:2])
        assert screen(seen)[4] == "held for 1.23 s at app.py:40 handler"

    def test_trouble_is_said_and_the_last_figures_stay(self) -> None:
        seen = picture(task(1, "Task-1"))
        shown = screen(seen, Choice(trouble="the program has ended; these are its last figures"))
        assert shown[4] == "the program has ended; these are its last figures"
        assert shown[:4] == screen(seen)[:4] and "Task-1" in shown[6]

    def test_of_one_of_several_loops(self) -> None:
        pictures = Pictures()
        two = (loop(1.0, []), loop(1.0, [], id=7, thread="worker"))
        first = pictures.add(answer(1.0, *two))
        assert first is not None
        assert "loop 1 of 2 (MainThread)" in screen(first, columns=120)[0]
        choice = Choice()
        keys("l", choice, first)
        assert choice.loop == 7
        second = pictures.add(answer(2.0, *two), choice.loop)
        assert second is not None and second.rates is None
        assert "loop 2 of 2 (worker)" in screen(second, columns=120)[0]
        keys("l", choice, second)
        assert choice.loop == 1

    def test_the_first_loop_that_runs_is_shown(self) -> None:
        seen = Pictures().add(answer(1.0, loop(1.0, [], state="stopped"), loop(1.0, [], id=2)))
        assert seen is not None and seen.index == 1

    def test_figures_that_do_not_fit_are_left_out_whole(self) -> None:
        shown = screen(picture(), columns=40)
        assert shown[2] == "/s   iterations 1,000  callbacks 4,000"
        assert shown[3] == "now  tasks 0  ready 3  timers 12"


class TestTheList:
    def test_of_a_few_tasks(self) -> None:
        shown = screen(picture(task(1, "Task-1", "main", "task"), task(2, "Task-2", "tick", age=3.4)))
        assert shown[5:9] == [
            "  WAITS FOR      AGE  TASK      COROUTINE  AT",
            "  sleep          3 s  Task-2    tick       app.py:12",
            "  task         > 1 s  Task-1    main       app.py:12",
            "",
        ]
        assert shown[-1] == "q quit  ? help  / filter  s sort: age  Enter open  space pause"

    def test_many_equal_tasks_are_one_line_with_their_number(self) -> None:
        some = [task(number, f"Task-{number}", "handle_request", "socket") for number in range(200)]
        groups = [
            group("handle_request", "socket", 9998),
            group("main", "task", 1),
            group("tick", "sleep", 1),
        ]
        seen = picture(
            task(1000, "Task-1", "main", "task"), task(1001, "ticker", "tick"), *some, groups=groups
        )
        shown = screen(seen)
        assert shown[3].startswith("now  tasks 10,000")
        assert shown[6:10] == [
            "▸ socket       > 1 s  9,998 ×   handle_request  app.py:12",
            "  task         > 1 s  Task-1    main            app.py:12",
            "  sleep        > 1 s  ticker    tick            app.py:12",
            "",
        ]

    def test_tasks_are_grouped_here_where_the_program_does_not(self) -> None:
        some = [task(number, f"Task-{number}") for number in range(50)]
        assert screen(picture(*some))[6:8] == ["▸ sleep        > 1 s  50 ×      work       app.py:12", ""]

    def test_equal_coroutines_in_different_places_are_different_groups(self) -> None:
        elsewhere = place("/srv/other.py", 9, "work")
        some = [task(number, f"Task-{number}") for number in range(5)]
        others = [task(number, f"Task-{number}", place=elsewhere) for number in range(5, 11)]
        assert [line[21:30].strip() for line in screen(picture(*some, *others))[6:8]] == ["6 ×", "5 ×"]

    def test_opening_a_group_shows_its_tasks_and_closing_hides_them(self) -> None:
        some = [task(number, f"Task-{number}") for number in range(1, 6)]
        seen = picture(*some, groups=[group("work", "sleep", 7)])
        choice = Choice()
        keys("enter", choice, seen)
        shown = screen(seen, choice)
        assert shown[6].startswith("▾ sleep") and "7 ×" in shown[6]
        assert [line.split()[4] for line in shown[7:12]] == [f"Task-{number}" for number in range(1, 6)]
        assert shown[12].strip() == "and 2 more"
        keys("enter", choice, seen)
        assert screen(seen, choice)[6].startswith("▸ sleep") and screen(seen, choice)[7] == ""

    def test_opening_a_task_shows_its_awaits(self) -> None:
        stack = [place("/srv/app.py", 3, "main"), place("/srv/db.py", 40, "query")]
        seen = picture(
            task(1, "Task-1", waits_for="lock <Lock [locked]>", kind="lock", stack=stack, awaited_by=[2]),
            task(2, "Task-2"),
        )
        choice = Choice()
        keys("enter", choice, seen)
        assert [line.strip() for line in screen(seen, choice)[7:11]] == [
            "waits for lock <Lock [locked]>",
            "awaited by Task-2",
            "/srv/db.py:40 query",
            "/srv/app.py:3 main",
        ]
        keys("down,down", choice, seen)
        keys("enter", choice, seen)
        assert choice.opened is None and choice.selected == ("task", 1)

    def test_opening_a_task_in_a_group_keeps_the_group_open(self) -> None:
        some = [task(number, f"Task-{number}") for number in range(1, 6)]
        seen = picture(*some)
        choice = Choice()
        keys("enter,down,down,enter", choice, seen)
        shown = screen(seen, choice)
        assert [line.strip().split()[-1] for line in shown[6:11]] == ["app.py:12"] * 3 + ["work", "app.py:12"]
        assert shown[9].strip() == "/srv/app.py:12 work"
        keys("enter", choice, seen)
        assert len([line for line in screen(seen, choice)[6:-1] if line]) == 6
        keys("escape", choice, seen)
        assert len([line for line in screen(seen, choice)[6:-1] if line]) == 1

    def test_what_is_asked_for_is_what_is_opened_or_filtered(self) -> None:
        some = [task(number, f"Task-{number}") for number in range(1, 6)]
        seen = picture(*some)
        choice = Choice()
        assert request(choice, seen) == {"ask": "snapshot", "tasks": 200}
        keys("enter", choice, seen)
        assert request(choice, seen) == {"ask": "snapshot", "tasks": 1000, "of": ["work", "/srv/app.py", 12]}
        keys("down,enter", choice, seen)
        assert request(choice, seen) == {"ask": "snapshot", "tasks": 200, "stacks": [1]}
        keys("escape,/,T,a,enter", choice, seen)
        assert request(choice, seen) == {"ask": "snapshot", "tasks": 1000, "match": "Ta"}

    def test_the_filter_looks_at_names_coroutines_kinds_and_places(self) -> None:
        seen = picture(
            task(1, "alpha", "main", "task"),
            task(2, "Beta", "tick", "sleep"),
            task(3, "gamma", "tock", "lock", place=place("/srv/locks.py", 8, "tock")),
        )

        def found(text: str) -> list[str]:
            return [
                line.split()[-3]
                for line in screen(seen, Choice(filter=text))[6:-1]
                if "  no task" not in line and line
            ]

        assert [found(text) for text in ("BET", "main", "sleep", "locks.py", "nothing", "")] == [
            ["Beta"], ["alpha"], ["Beta"], ["gamma"], [], ["alpha", "Beta", "gamma"],
        ]  # fmt: skip
        assert "no task matches the filter" in screen(seen, Choice(filter="nothing"))[6]

    def test_a_filter_finds_one_task_of_a_group(self) -> None:
        some = [task(number, f"Task-{number}") for number in range(1, 50)]
        shown = screen(picture(*some), Choice(filter="task-17"))
        assert [line.split()[4] for line in shown[6:8] if line] == ["Task-17"]
        # One that matches all of them by their coroutine leaves them a group.
        assert "49 ×" in screen(picture(*some), Choice(filter="work"))[6]

    def test_typing_a_filter(self) -> None:
        seen = picture(task(1, "alpha"), task(2, "beta", "other"))
        choice = Choice()
        keys("/,q,x,backspace,\x1b[A", choice, seen)
        assert choice.filter == "q" and screen(seen, choice)[-1].startswith("filter: q_")
        keys("enter", choice, seen)
        assert screen(seen, choice)[-1].startswith("filter: q  q quit")
        keys("/,escape", choice, seen)
        assert (choice.filter, choice.typing) == ("", False)
        keys("/", choice, seen)
        assert not press("quit", choice, seen, 24)

    def test_sorting(self) -> None:
        seen = picture(
            task(1, "Task-10", "a", "sleep", age=5.0),
            task(2, "Task-9", "b", "lock", age=7.0),
            task(3, "late", "c", "queue", age=1.0, state="running"),
            *(task(number, f"x{number}", "d", "socket", age=2.0) for number in range(10, 15)),
        )

        def order(choice: Choice) -> list[str]:
            return [line.split("  ")[-3].strip() or line.split()[3] for line in screen(seen, choice)[6:10]]

        choice = Choice()
        orders = {}
        for _ in SORTS:
            orders[choice.sort] = [
                next(name for name in ("Task-10", "Task-9", "late", "5 ×") if name in line)
                for line in screen(seen, choice)[6:10]
            ]
            keys("s", choice, seen)
        assert choice.sort == "age"
        assert orders == {
            "age": ["Task-9", "Task-10", "5 ×", "late"],
            "count": ["5 ×", "late", "Task-9", "Task-10"],
            "name": ["5 ×", "late", "Task-9", "Task-10"],
            "kind": ["Task-9", "late", "Task-10", "5 ×"],
        }
        keys("r", choice, seen)
        assert "late" in screen(seen, choice)[6] and "Task-9" in screen(seen, choice)[9]

    def test_ages_are_known_from_when_a_task_is_first_seen(self) -> None:
        pictures = Pictures()
        for time, tasks in (
            (1.0, [task(1, "Task-1")]),
            (2.0, [task(1, "Task-1"), task(2, "Task-2")]),
            (6.0, None),
        ):
            tasks = tasks or [task(1, "Task-3"), task(2, "Task-2")]
            seen = pictures.add(answer(time, loop(time, tasks)))
        assert seen is not None
        assert [(one.name, one.age, one.at_least) for one in seen.tasks] == [
            # The same id again is another task if its name is another one.
            ("Task-3", 0.0, False),
            ("Task-2", 4.0, False),
        ]

    def test_a_task_that_was_not_described_may_be_older(self) -> None:
        pictures = Pictures()
        groups = [group("work", "sleep", 100)]
        pictures.add(answer(1.0, loop(1.0, [task(1, "Task-1")], groups)))
        seen = pictures.add(answer(2.0, loop(2.0, [task(2, "Task-2")], groups)))
        assert seen is not None
        assert seen.tasks[0].at_least


class TestMoving:
    def test_the_selected_row_stays_on_the_screen_and_the_same_when_others_come(self) -> None:
        some = [task(number, f"Task-{number}", f"work{number}") for number in range(100)]
        seen = picture(*some)
        choice = Choice(sort="name")
        screen(seen, choice)
        for key, name in (
            ("end", "Task-99"),
            ("page up", "Task-83"),
            ("up", "Task-82"),
            ("home", "Task-0"),
            ("page down", "Task-16"),
        ):
            keys(key, choice, seen)
            drawn = lines(seen, choice, 80, 24)
            selected = [line for line in drawn if any(style == "selected" for _, style in line)]
            assert len(selected) == 1 and f" {name} " in selected[0][0][0]
        later = picture(task(1000, "Aaa"), *some[5:])
        drawn = lines(later, choice, 80, 24)
        assert [line[0][0].split()[4] for line in drawn if line and line[0][1] == "selected"] == ["Task-16"]

    def test_pause_and_help(self) -> None:
        seen = picture(task(1, "Task-1"))
        choice = Choice()
        keys("space", choice, seen)
        assert screen(seen, choice)[4] == "PAUSED" and "space go on" in screen(seen, choice)[-1]
        keys("space,?", choice, seen)
        assert "Enter   open and close" in "\n".join(screen(seen, choice))
        keys("x", choice, seen)
        assert "Task-1" in screen(seen, choice)[6]
        assert not press("q", choice, seen, 24)


class TestEverySize:
    def test_nothing_is_wider_or_higher_than_the_terminal(self) -> None:
        where = [place("/srv/" + "long/" * 30 + "app.py", 40, "handler_" * 20)]
        some = [
            task(number, "日本語テキスト" * number, "コルーチン" * 5, f"kind{number}")
            for number in range(1, 40)
        ]
        some += [task(number, "\x1b[31m" + "e\u0301" * 50) for number in range(100, 110)]
        seen = picture(*some, state="running", held=100.0, where=where)
        opened = Choice(opened=("task", 3), selected=("task", 20))
        for choice in (
            Choice(),
            opened,
            Choice(help=True),
            Choice(filter="日" * 50),
            Choice(typing=True, trouble="x" * 300),
        ):
            for columns in (*range(1, 12), 17, 26, 27, 33, 40, 79, 80, 81, 132, 250):
                for height in (*range(1, 14), 24, 60):
                    drawn = lines(seen, choice, columns, height)
                    assert len(drawn) <= height
                    for line in drawn:
                        text = "".join(text for text, _ in line)
                        assert width(text) <= columns and "\x1b" not in text, (columns, height, text)

    def test_a_low_terminal_shows_the_load_and_the_list(self) -> None:
        shown = screen(picture(task(1, "Task-1")), height=8)
        assert (
            shown[1].startswith("load")
            and any("Task-1" in line for line in shown)
            and shown[-1].startswith("q quit")
        )

    def test_the_columns_are_straight(self) -> None:
        seen = picture(
            task(1, "日本語", "日本"), task(2, "plain", "plain"), task(3, "e\u0301e\u0301", "x" * 40)
        )
        shown = screen(seen)
        places = [width(line[: line.index("app.py")]) for line in shown[6:9]]
        assert len(set(places)) == 1, shown

    def test_without_unicode(self) -> None:
        some = [task(number, f"Task-{number}") for number in range(9)]
        seen = picture(*some, task(100, "Task-100", "long_" * 20, "lock"))
        shown = screen(seen, signs=ASCII)
        assert all(line.isascii() for line in shown), shown
        assert shown[1].startswith("load ####....") and "200 us" in shown[1]

    def test_plain_lines(self) -> None:
        shown = plain_lines(picture(task(1, "Task-1"), task(2, "Task-2", "other")), Choice(), 80, 50)
        assert [line.split()[0] for line in shown] == [
            "server.py",
            "load",
            "/s",
            "now",
            "WAITS",
            "sleep",
            "sleep",
        ]
        assert all(one != two for one, two in pairwise(shown))
