"""`lstmfast study list | run NAME... | report`: the command line of the study."""

import argparse
import sys
from pathlib import Path

import torch

from . import progress, registry, report, runner
from .data.source import Missing
from .experiment import Experiment, Setting
from .layers import PROVIDERS
from .results import Store

DEFAULT_OUT = Path("lstmfast-study")


def add_command(commands) -> None:
    """Adds `study` to the subparsers of `lstmfast`."""
    study = commands.add_parser("study", help="LSTM against RNN, measured", description=__doc__)
    actions = study.add_subparsers(metavar="ACTION", required=True)

    listing = actions.add_parser("list", help="the experiments, what they test, and what they need")
    _add_data(listing)
    listing.set_defaults(command=list_experiments)

    run = actions.add_parser("run", help="run experiments; what has been run already is not run again")
    run.add_argument("names", nargs="+", metavar="NAME", choices=["all", *registry.names()], help="or: all")
    _add_results(run)
    _add_data(run)
    run.add_argument("--seeds", type=_positive, metavar="N", help="how many seeds (default: the budget's number)")
    run.add_argument("--seed", type=int, default=0, metavar="S", help="the first seed (default: 0)")
    run.add_argument("--threads", type=_positive, default=1, metavar="N", help="threads of the CPU (default: 1)")
    run.add_argument("--check", action="store_true", help="fail if a figure lies outside of the band expected of it")
    run.set_defaults(command=run_experiments)

    page = actions.add_parser("report", help="write report.html and the plots from the results there are")
    _add_results(page)
    page.set_defaults(command=write_report)


def _add_results(parser: argparse.ArgumentParser) -> None:
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--quick", dest="mode", action="store_const", const="quick", help="minutes (the default)")
    budget.add_argument("--full", dest="mode", action="store_const", const="full", help="longer, and more seeds")
    parser.set_defaults(mode="quick")
    parser.add_argument("--layer", choices=PROVIDERS, default="lstmfast", help="whose layers (default: lstmfast)")
    parser.add_argument("--device", type=_device, default=torch.device("cpu"), help="cpu (default), cuda, cuda:1...")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, metavar="DIR", help=f"default: {DEFAULT_OUT}")


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, metavar="DIR", help="a folder with data files or downloaded packages")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {value}")
    return value


def _device(text: str) -> torch.device:
    try:
        device = torch.device(text)
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(str(error).splitlines()[0]) from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError("torch sees no GPU here")
    return device


def list_experiments(options: argparse.Namespace) -> int:
    for name in registry.names():
        experiment = registry.get(name)
        print(f"{name:15} {experiment.title} [{', '.join(experiment.claims)}]")
        for source in experiment.sources:
            there = "is here" if source.present(options.data) else f"is missing: {source.install}"
            print(f"{'':15} {source.title} ({source.licence}) {there}")
    return 0


def run_experiments(options: argparse.Namespace) -> int:
    torch.set_num_threads(options.threads)
    # Vanishing gradients are subnormal numbers, which are an order of magnitude slower on a CPU. lstmfast flushes them
    # in its kernels anyway; this does so for torch.nn as well. (Not in further threads of torch's, hence one thread.)
    torch.set_flush_denormal(True)
    if not progress.available():
        print("no progress bars: tqdm is missing: pip install 'lstmfast[study]'", file=sys.stderr)
    outside = []
    for name in registry.names() if "all" in options.names else dict.fromkeys(options.names):
        experiment = registry.get(name)
        budget = experiment.budgets[options.mode]
        setting = Setting(budget, options.layer, options.device, options.data)
        store = Store(options.out, experiment, options.mode, setting)
        try:
            runner.run(experiment, setting, store, range(options.seed, options.seed + (options.seeds or budget.seeds)))
        except Missing as missing:
            print(f"{name}: skipped. {missing}")
            continue
        except KeyboardInterrupt:
            print("\ninterrupted; the same command goes on from here", file=sys.stderr)
            return 130
        outside += _print_outcome(_chapter(experiment, options), options.check)
    write_report(options)
    return 1 if outside else 0


def _print_outcome(chapter: report.Chapter, check: bool) -> list[str]:
    """Prints what was found; returns the figures outside of their bands if they are to be checked."""
    print(f"\n{chapter.experiment.name}: {chapter.experiment.title}")
    for table in chapter.experiment.tables(chapter.results):
        print(f"  {table.title}")
        widths = [max(len(row[column]) for row in [table.header, *table.rows]) for column in range(len(table.header))]
        for row in [table.header, *table.rows]:
            print("    " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for finding in chapter.findings:
        print(f"  {finding.claim} {finding.verdict.value}: {finding.measured}")
    outside = []
    for band, value, within in report.check(chapter.experiment, chapter.results) if check else ():
        print(f"  {'ok' if within else 'OUTSIDE'}: {band.what}: {value:.4g}, expected {band.low:g} to {band.high:g}")
        if not within:
            outside.append(band.what)
    return outside


def _chapter(experiment: Experiment, options: argparse.Namespace) -> report.Chapter:
    setting = Setting(experiment.budgets[options.mode], options.layer, options.device)
    results = Store(options.out, experiment, options.mode, setting).results()
    return report.Chapter(experiment, results.complete(experiment), options.mode)


def write_report(options: argparse.Namespace) -> int:
    try:
        page = report.write(options.out, (_chapter(registry.get(name), options) for name in registry.names()))
    except Missing as missing:
        print(f"no plots: {missing}", file=sys.stderr)
    else:
        print(f"\nwrote {page}")
    return 0
