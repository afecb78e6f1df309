"""The command line: arguments in, exit code out. `--help` and the listings import neither textual nor torch."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from engine.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_REQUEST, RequestError, RunError

EXIT_CODES = """exit codes: 0 done; 1 failed while running; 2 the request was wrong, one message names the fix;
3 stopped, can be resumed; 130 interrupted before anything could be saved"""


class _Parser(argparse.ArgumentParser):
    """Usage errors are request errors: one message, nothing else."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise RequestError(f"{message}. `{self.prog} --help` shows the usage")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. stdout is data, stderr is for people."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(given)
    except RequestError as error:
        for problem in error.problems:
            print("segtui: " + " ".join(str(problem).splitlines()), file=sys.stderr)
        return EXIT_REQUEST
    except RunError as error:
        print(f"segtui: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE


def _run(given: list[str]) -> int:
    commands = {"runs": _runs, "checkpoints": _checkpoints, "attach": _attach, "stop": _stop}
    if given and given[0] in commands:
        return commands[given[0]](given[1:])
    return _train(given)


def _train(given: list[str]) -> int:
    parser = _Parser(
        prog="segtui",
        description="A terminal experiment manager for semantic segmentation.",
        epilog="commands: segtui runs | checkpoints | attach RUN | stop RUN   (each has --help)\n\n" + EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("preset", nargs="?", metavar="PRESET", help="a preset's file (.toml, .py) or a built-in one's name")
    parser.add_argument("--headless", action="store_true", help="train without a screen")
    parser.add_argument("--debug", action="store_true", help="a subset of the data, no checkpoints, debug_ in the names")
    parser.add_argument("--deterministic", action="store_true", help="the same preset gives the same weights, byte for byte")
    parser.add_argument("--private", action="store_true", help="your own Weights & Biases entity, not the team's")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help="override a value, as in train.epochs=10"
    )
    parser.add_argument("--resume", metavar="RUN", help="go on with a stopped, failed or lost run, byte for byte")
    _common(parser)
    options = parser.parse_args(given)
    if not given:
        parser.print_help()
        return EXIT_DONE
    if options.resume and (options.preset or options.overrides or options.debug or options.deterministic or options.private):
        raise RequestError("--resume takes its preset and toggles from the run: give nothing beside it but --runs and --json")
    if not options.resume and not options.preset:
        raise RequestError("name a preset, as in `segtui --headless presets/pan.toml`, or a run to --resume")
    if not options.headless:
        raise RequestError("add --headless: training is shown without a screen for now")
    from tui import headless

    if options.resume:
        return headless.resume(options.resume, options.runs, as_json=options.json)
    return headless.train(
        options.preset,
        options.overrides,
        options.runs,
        debug=options.debug,
        deterministic=options.deterministic,
        private=options.private,
        as_json=options.json,
    )


def _runs(given: list[str]) -> int:
    parser = _Parser(prog="segtui runs", description="All runs, newest first.", allow_abbrev=False)
    _common(parser)
    options = parser.parse_args(given)
    from tui import listings

    return listings.runs(options.runs, as_json=options.json)


def _checkpoints(given: list[str]) -> int:
    parser = _Parser(prog="segtui checkpoints", description="All checkpoints of all runs, best first.", allow_abbrev=False)
    _common(parser)
    options = parser.parse_args(given)
    from tui import listings

    return listings.checkpoints(options.runs, as_json=options.json)


def _attach(given: list[str]) -> int:
    parser = _Parser(prog="segtui attach", description="Watch a run that was started elsewhere, or see a finished one.", allow_abbrev=False)
    parser.add_argument("run", metavar="RUN", help="its folder, or its name below --runs")
    _common(parser)
    options = parser.parse_args(given)
    from tui import headless

    return headless.attach(options.run, options.runs, as_json=options.json)


def _stop(given: list[str]) -> int:
    parser = _Parser(prog="segtui stop", description="Stop a run after its current step, so that it can be resumed.", allow_abbrev=False)
    parser.add_argument("run", metavar="RUN", help="its folder, or its name below --runs")
    _common(parser)
    options = parser.parse_args(given)
    from tui import headless

    return headless.stop(options.run, options.runs)


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="the folder of all runs (default: runs)")
    parser.add_argument("--json", action="store_true", help="one json object a line on stdout, and nothing else")


if __name__ == "__main__":
    sys.exit(main())
