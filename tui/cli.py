"""The command line: arguments in, exit code out. `--help` and the listings import neither textual nor torch."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_REQUEST, RequestError, RunError
from engine.visible import visible, visible_lines

if TYPE_CHECKING:
    from tui.config import Config

COMMANDS = """commands (each has --help):
  segtui predict CHECKPOINT...        submission, masks, scores; test-time augmentation, ensembles
  segtui vote FILE.csv FILE.csv...    hard voting over submissions
  segtui score FILE.csv               a submission against ground truth
  segtui check PRESET                 preset, data and machine looked at, nothing trained
  segtui runs | checkpoints           listings
  segtui attach RUN | stop RUN        a run that was started elsewhere
  segtui queue                        runs one after another: list, move, cancel, clear, start

"""
EXIT_CODES = """exit codes: 0 done; 1 failed while running; 2 the request was wrong, one message names the fix;
3 stopped, can be resumed; 130 interrupted before anything could be saved"""

QUEUE_ACTIONS = {
    "move": "change the order of those that wait",
    "cancel": "take out what waits; what runs is stopped by `segtui stop RUN`, and the next one starts",
    "clear": "forget those that are over; their runs stay",
    "start": "go on with it, where its process is gone",
}
LAUNCH = ("devices", "nodes", "rendezvous")
"""Arguments that are a preset's keys, in its table of that name."""
JSON_HELP = "one json object a line on stdout, and nothing else"


class Parser(argparse.ArgumentParser):
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
            print("segtui: " + visible(" ".join(str(problem).splitlines())), file=sys.stderr)
        return EXIT_REQUEST
    except RunError as error:
        print(f"segtui: {visible_lines(str(error))}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE


def _run(given: list[str]) -> int:
    commands = {
        "predict": _predict,
        "vote": _vote,
        "score": _score,
        "runs": _runs,
        "checkpoints": _checkpoints,
        "attach": _attach,
        "stop": _stop,
        "check": _check,
        "queue": _queue,
    }
    if given and given[0] in commands:
        return commands[given[0]](given[1:])
    return _train(given)


def _train(given: list[str]) -> int:
    parser = Parser(
        prog="segtui",
        description="A terminal experiment manager for semantic segmentation.",
        epilog=COMMANDS + EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    presets = "a preset's file (.toml, .py) or a built-in one's name; several are queued and run one after another"
    parser.add_argument("presets", nargs="*", default=[], metavar="PRESET", help=presets)
    parser.add_argument("--headless", action="store_true", help="train without a screen")
    parser.add_argument("--debug", action="store_true", help="a subset of the data, no checkpoints, debug_ in the names")
    parser.add_argument("--deterministic", action="store_true", help="the same preset gives the same weights, byte for byte")
    parser.add_argument("--private", action="store_true", help="your own Weights & Biases entity, not the team's")
    _overrides(parser)
    parser.add_argument("--resume", metavar="RUN", help="go on with a stopped, failed or lost run, byte for byte")
    parser.add_argument("--devices", metavar="N", help='GPUs that train together, or "auto": all of them (default: the preset\'s, 1)')
    parser.add_argument("--nodes", metavar="N", help="machines that train together: the same command on each, with --rendezvous")
    parser.add_argument("--rendezvous", metavar="HOST:PORT", help="where they meet: the name of one of them, any free port there")
    how = "as a Slurm job: the preset's table launch.slurm, and what is given here, such as partition=gpu,time=02:00:00"
    parser.add_argument("--slurm", nargs="?", const="", metavar="KEY=VALUE,...", help=how)
    parser.add_argument("--queue", action="store_true", help="queue even a single preset: it waits for its turn")
    parser.add_argument("--devices-per-run", type=int, metavar="N", help="of the devices that the queue shares out (default: 1)")
    _common(parser)
    options = parser.parse_intermixed_args(given)  # presets before and after options; settled below, once it is known for what
    if all(value == parser.get_default(name) for name, value in vars(options).items() if name != "runs"):
        return _screens(parser, options)
    _settle(options)
    as_job = options.slurm is not None
    slurm = _slurm_overrides(options)
    toggles = (options.debug, options.deterministic, options.private)
    is_queued = options.queue or len(options.presets) > 1
    launch = [f"launch.{key}={value}" for key in LAUNCH if (value := getattr(options, key)) is not None]
    if options.resume and (options.presets or options.overrides or any(toggles) or options.queue or options.devices_per_run):
        raise RequestError(
            "--resume takes its preset and toggles from the run: give nothing beside it but --runs, --json, --devices and --slurm"
        )
    if options.devices_per_run is not None and not is_queued:
        raise RequestError("--devices-per-run is for several presets, or one with --queue")
    if as_job and (is_queued or options.rendezvous):
        what = (
            "--rendezvous: its nodes find each other" if options.rendezvous else "several presets or --queue: Slurm has a queue of its own"
        )
        raise RequestError(f"--slurm takes one preset, and no {what}")
    if not options.resume and not options.presets:
        raise RequestError("name a preset, as in `segtui --headless presets/pan.toml`, or a run to --resume")
    if not options.headless:
        raise RequestError("add --headless; or type `segtui` alone and choose the preset there")
    from tui import headless

    if options.resume:
        where = True if as_job else False if options.devices is not None else None  # --devices says: on this machine
        return headless.resume(options.resume, slurm + launch, options.runs, as_job=where, as_json=options.json)
    if is_queued:
        from engine.events import Toggles
        from tui import queueing

        devices = 1 if options.devices_per_run is None else options.devices_per_run
        shared = ["launch.devices=auto"] if options.devices is None and devices > 1 else []  # all that it is given
        overrides = shared + options.overrides + launch
        return queueing.queue_up(options.presets, overrides, options.runs, Toggles(*toggles), devices, as_json=options.json)
    return headless.train(
        options.presets[0],
        options.overrides + slurm + launch,
        options.runs,
        as_job=as_job,
        debug=options.debug,
        deterministic=options.deterministic,
        private=options.private,
        as_json=options.json,
    )


def _slurm_overrides(options: argparse.Namespace) -> list[str]:
    """What --slurm gives, as overrides; keys of sbatch's own go to `launch.slurm.extra`, a preset that stood behind it to the presets."""
    given = options.slurm or ""
    if given and "=" not in given:
        options.presets.append(given)
        return []
    if not given:
        return []
    from engine.schema import SlurmTable

    overrides = []
    for part in given.split(","):
        key, equals, value = part.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key:
            raise RequestError(f"--slurm {given}: {part!r} is not KEY=VALUE. Write for example --slurm partition=gpu,time=02:00:00")
        known = SlurmTable.model_fields.get(key)
        text = f'"{value}"' if known is not None and known.annotation is str else value
        overrides.append(f"launch.slurm.{key if known is not None else f'extra.{key}'}={text}")
    return overrides


def _screens(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        parser.print_help()
        return EXIT_DONE
    from tui.app import run_app
    from tui.places import is_configured

    theme, keys = "", {}
    if is_configured():
        from tui import config

        found = config.load(for_screens=True)
        theme, keys = found.theme, found.keys
    _settle(options)
    return run_app(options.runs, theme=theme, keys=keys)


def _predict(given: list[str]) -> int:
    parser = predict_parser()
    from tui import predicting

    return predicting.predict(_parsed(parser, given), given)


def predict_parser() -> argparse.ArgumentParser:
    """The arguments of `segtui predict`, of the screen for it too."""
    from engine.views import DEFAULT

    parser = Parser(
        prog="segtui predict",
        description="Predict a split or a folder of images with one checkpoint or several, into a submission.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT", help="a checkpoint's file, or a run: its best one")
    what = parser.add_argument_group("what is predicted")
    what.add_argument("--split", metavar="SPLIT", help="train, val, test, or a json's name (default: test)")
    what.add_argument("--images", type=Path, metavar="DIR", help="any folder of images instead of a split")
    what.add_argument("--data", metavar="ROOT", help="the data set's folder (default: SEGTUI_DATA, else where the checkpoint was trained)")
    what.add_argument("--preset", metavar="PRESET", help="describes checkpoints of the old kind, {'net': state_dict}")
    how = parser.add_argument_group("how")
    how.add_argument("--tta", nargs="?", const=DEFAULT, metavar="VIEWS", help=f"average over views (default: {DEFAULT})")
    how.add_argument("--window", type=int, metavar="SIDE", help="predict large images in overlapping windows of this many pixels")
    how.add_argument("--overlap", type=float, default=0.5, metavar="SHARE", help="of neighbouring windows (default: 0.5)")
    vote = how.add_mutually_exclusive_group()
    vote.add_argument("--softvote", action="store_true", help="average the members' probabilities")
    vote.add_argument("--hardvote", action="store_true", help="the class that most members give a pixel")
    how.add_argument("--weights", metavar="W,W", help='a weight for each member, or "fit": those that fit the validation split best')
    how.add_argument("--member", action="append", default=[], type=Path, metavar="FILE.npy", help="probabilities (N, C, H, W) that join")
    where = parser.add_argument_group("what is written")
    where.add_argument("--name", metavar="NAME", help="of the result, a folder in the run's predictions (default: from the options)")
    where.add_argument("--out", type=Path, metavar="FILE.csv", help="the submission (default: submission.csv in the result's folder)")
    where.add_argument("--size", type=int, default=256, metavar="SIDE", help="side of the submission's square (default: 256)")
    where.add_argument(
        "--resize", choices=("probabilities", "nearest"), default="probabilities", help="what is scaled to it (default: probabilities)"
    )
    where.add_argument(
        "--masks", type=Path, metavar="DIR", help="the label maps, an indexed PNG for each image (default: masks in the result's folder)"
    )
    where.add_argument("--overlay", action="store_true", help="beside each mask: the photograph under it")
    where.add_argument("--probabilities", type=Path, metavar="FILE.npy", help="float16 (N, C, H, W), and FILE.npy.json about it")
    where.add_argument("--force", action="store_true", help="replace what is there")
    _common(parser)
    return parser


def _vote(given: list[str]) -> int:
    parser = Parser(
        prog="segtui vote",
        description="Hard voting over submissions, joined by image_id: each pixel's most frequent class; of equals the first file's wins.",
        allow_abbrev=False,
    )
    parser.add_argument("submissions", nargs="+", type=Path, metavar="FILE.csv")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.csv", help="the vote")
    parser.add_argument("--weights", metavar="W,W", help="a weight for each file")
    parser.add_argument("--force", action="store_true", help="replace what is there")
    parser.add_argument("--json", action="store_true", help=JSON_HELP)
    from tui import predicting

    return predicting.vote(_parsed(parser, given))


def _score(given: list[str]) -> int:
    parser = Parser(prog="segtui score", description="The IoU of a submission that has ground truth, by class.", allow_abbrev=False)
    parser.add_argument("submission", type=Path, metavar="FILE.csv")
    parser.add_argument("--data", metavar="ROOT", help="the data set's folder (default: SEGTUI_DATA, else the built-in sample)")
    parser.add_argument("--split", default="val", metavar="SPLIT", help="train, val, test, or a json's name (default: val)")
    parser.add_argument(
        "--background", choices=("class", "ignore"), default="class", help="as data.background in its preset (default: class)"
    )
    parser.add_argument("--json", action="store_true", help=JSON_HELP)
    from tui import predicting

    return predicting.score(_parsed(parser, given))


def _check(given: list[str]) -> int:
    parser = Parser(
        prog="segtui check",
        description="Look at preset, data and machine before any training step; nothing is trained.",
        epilog="exit codes: 0 nothing is wrong, or warnings alone; 2 a launch would be refused",
        allow_abbrev=False,
    )
    parser.add_argument("preset", metavar="PRESET", help="a preset's file (.toml, .py) or a built-in one's name")
    parser.add_argument("--full", action="store_true", help="read every pixel: damage, near-duplicates, what the network sees, its size")
    parser.add_argument("--debug", action="store_true", help="as a debug run: its subset of the data")
    parser.add_argument("--private", action="store_true", help="as a private run: your own Weights & Biases entity")
    _overrides(parser)
    _common(parser)
    options = _parsed(parser, given)
    from tui import checking

    return checking.check(
        options.preset,
        options.overrides,
        options.runs,
        debug=options.debug,
        private=options.private,
        full=options.full,
        as_json=options.json,
    )


def _runs(given: list[str]) -> int:
    parser = Parser(prog="segtui runs", description="All runs, newest first.", allow_abbrev=False)
    _common(parser)
    options = _parsed(parser, given)
    from tui import listings

    return listings.runs(options.runs, as_json=options.json)


def _checkpoints(given: list[str]) -> int:
    parser = Parser(prog="segtui checkpoints", description="All checkpoints of all runs, best first.", allow_abbrev=False)
    _common(parser)
    options = _parsed(parser, given)
    from tui import listings

    return listings.checkpoints(options.runs, as_json=options.json)


def _attach(given: list[str]) -> int:
    parser = Parser(prog="segtui attach", description="Watch a run that was started elsewhere, or see a finished one.", allow_abbrev=False)
    parser.add_argument("run", metavar="RUN", help="its folder, or its name below --runs")
    _common(parser)
    options = _parsed(parser, given)
    from tui import headless

    return headless.attach(options.run, options.runs, as_json=options.json)


def _stop(given: list[str]) -> int:
    parser = Parser(prog="segtui stop", description="Stop a run after its current step, so that it can be resumed.", allow_abbrev=False)
    parser.add_argument("run", metavar="RUN", help="its folder, or its name below --runs")
    _common(parser)
    options = _parsed(parser, given)
    from tui import headless

    return headless.stop(options.run, options.runs)


def _queue(given: list[str]) -> int:
    """`given` begins with what is done to the queue; without that it is listed."""
    does = given[0] if given and given[0] in QUEUE_ACTIONS else ""
    parser = Parser(
        prog=f"segtui queue {does}".rstrip(),
        description=QUEUE_ACTIONS.get(does, "The queue of this box: what waits, what runs, what became of it."),
        epilog=None if does else "\n".join(f"  segtui queue {name:<8}{text}" for name, text in QUEUE_ACTIONS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if does == "move":
        parser.add_argument("id", type=int, metavar="ID", help="as `segtui queue` lists it")
        parser.add_argument("where", choices=("up", "down", "first"))
    if does == "cancel":
        parser.add_argument("ids", nargs="+", type=int, metavar="ID", help="as `segtui queue` lists it")
    _common(parser)
    options = _parsed(parser, given[1:] if does else given)
    from tui import queueing

    match does:
        case "start":
            return queueing.start(options.runs, as_json=options.json)
        case "move":
            return queueing.move(options.id, options.where, options.runs, as_json=options.json)
        case "cancel":
            return queueing.cancel(options.ids, options.runs, as_json=options.json)
        case "clear":
            return queueing.clear(options.runs, as_json=options.json)
    return queueing.listing(options.runs, as_json=options.json)


def _parsed(parser: argparse.ArgumentParser, given: list[str]) -> argparse.Namespace:
    options = parser.parse_args(given)
    _settle(options)
    return options


def _settle(options: argparse.Namespace) -> None:
    """What was not given, by the variables, else by the user's configuration; that is read only now, after `--help`."""
    config = _config()
    if config and config.data and not os.environ.get("SEGTUI_DATA"):
        os.environ["SEGTUI_DATA"] = str(Path(config.data).expanduser())  # processes that are started get it too
    if "runs" in options and options.runs is None:
        options.runs = Path(os.environ.get("SEGTUI_RUNS") or (config and config.runs) or "runs").expanduser()


def _config() -> Config | None:
    """None where there is no file: listings then do without pydantic."""
    from tui.places import is_configured

    if not is_configured():
        return None
    from tui import config

    return config.load()


def _overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help="override a value, as in train.epochs=10"
    )


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--runs", type=Path, metavar="DIR", help="the folder of all runs (default: SEGTUI_RUNS, else config.toml's, else runs)"
    )
    parser.add_argument("--json", action="store_true", help=JSON_HELP)


if __name__ == "__main__":
    sys.exit(main())
