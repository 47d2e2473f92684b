import io

from rich.console import Console

from dita.generation.progress import EVERY, Progress


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def progress(**options):
    out = io.StringIO()
    clock = Clock()
    return Progress(Console(file=out, width=100), clock=clock, **options), clock, out


def test_without_a_terminal_it_says_a_line_now_and_then_with_rate_and_time_left():
    shown, clock, out = progress()
    shown.start(100)
    clock.now += EVERY - 1
    shown.advance(made=1)
    assert out.getvalue() == ""
    clock.now += 31
    shown.advance(made=28, failed=1)
    assert out.getvalue() == "generating: 30 of 100, 1 failed, 2.0 s each, 0:02:20 left\n"


def test_fast_jobs_are_counted_by_the_second():
    shown, clock, _ = progress()
    shown.start(4000)
    clock.now += 100
    shown.advance(made=400)
    assert shown.line() == "generating: 400 of 4000, 4.00 a second, 0:15:00 left"


def test_only_the_first_of_several_workers_speaks():
    shown, _, out = progress()
    shown.start(10, worker=1, workers=2)
    shown.say("loud")
    assert out.getvalue() == ""
    shown, _, out = progress()
    shown.start(10, worker=0, workers=2)
    assert shown.line().startswith("worker 1 of 2: 0 of 10")
