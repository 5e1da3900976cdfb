"""`mimkit report`: runs as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from ..core.errors import UsageError
from ..core.files import write_bytes, write_text
from .efficiency import resolve_device
from .evaluate import Evaluation
from .progress import say
from .reporting.blocks import Cell, Chapter, Page, Section, Table
from .reporting.chapters import Probed, Wishes, chapter, probe, reconstruction_picture
from .reporting.embedding import Projection
from .reporting.environment import environment
from .reporting.facts import RunFacts, read_facts
from .reporting.probes import MODEL, line_of, read_evaluation

TEMPLATE = "page.html.j2"
PICTURE_ROWS = 2
"""Images in the file that --picture writes."""


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Write runs as one HTML page that needs nothing else: mail it, or open it anywhere.

    It says in words how the run went, and shows curves, reconstructions, probes, embeddings, test
    scores, data card and recipe. A run that still goes on is shown as far as it is. The same
    inputs give the same bytes.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders that `mimkit pretrain` or `mimkit finetune` wrote."""
    out: Path = Path("report.html")
    """Page to write."""
    picture: Path | None = None
    """PNG file with reconstructions of the first run, to write as well."""
    data: Path | None = None
    """Curated store, for reconstructions, embeddings, probes, predictions and the data card."""
    group: str | None = None
    """Store in `data`, when it holds several."""
    evaluation: tuple[Path, ...] = ()
    """What `mimkit evaluate` wrote (evaluation.json), used instead of measuring small probes."""
    samples: int = 6
    """Images in a gallery."""
    points: int = 400
    """Samples in the map of embeddings."""
    projection: Projection = "pca"
    """How that map is made: principal components, or t-SNE (slower, shows neighbourhoods)."""
    title: str = "mimkit report"
    """Title of the page."""
    seed: int = 0
    """Of masks, draws of labels and the projection."""
    device: str = "auto"
    """`cpu`, `cuda` or `auto` (cuda when there is one)."""


def run(config: ReportConfig) -> Path:
    """Write the page.

    Returns:
        the page.

    Raises:
        UsageError: for settings that cannot work.
        DataError: when a folder is no run, or a store cannot be read.
        WeightsError: when a model was changed since it was written.
    """
    check(config)
    wishes = Wishes(
        data=config.data,
        group=config.group,
        samples=config.samples,
        points=config.points,
        projection=config.projection,
        seed=config.seed,
        device=resolve_device(config.device),
    )
    facts = [read_facts(path) for path in config.runs]
    given = matched(facts, [read_evaluation(path) for path in config.evaluation])
    probed = [probe(run_facts, wishes, e) for run_facts, e in zip(facts, given, strict=True)]
    chapters = [chapter(f, wishes, p) for f, p in zip(facts, probed, strict=True)]
    page = Page(
        config.title,
        tuple(chapters),
        comparison(facts, chapters, probed) if len(facts) > 1 else None,
    )
    if config.picture is not None:
        write_bytes(config.picture, reconstruction_picture(facts[0], wishes, PICTURE_ROWS))
        say(f"picture: {config.picture}")
    write_text(config.out, render(page, Section("Made with", (environment(),))))
    for made in chapters:
        say(f"{made.title}. {made.verdict.headline}.")
    say(f"report: {config.out}")
    return config.out


def check(config: ReportConfig) -> None:
    """Raise UsageError for settings that cannot work, naming field, value and fix."""
    if not config.runs:
        raise UsageError("runs", "are missing", "name at least one folder of a run")
    for name in ("samples", "points"):
        value = getattr(config, name)
        if value < 1:
            raise UsageError(f"{name} {value}", "is below 1", "use 1 or more")
    if config.out.is_dir():
        raise UsageError(f"--out {config.out}", "is a folder", "give the name of an .html file")


def matched(facts: Sequence[RunFacts], found: Sequence[Evaluation]) -> list[Evaluation | None]:
    """Return the evaluation of each run.

    Raises:
        UsageError: for an evaluation of a model that is in none of the runs.
    """
    given: list[Evaluation | None] = [None] * len(facts)
    for evaluation in found:
        owner = Path(evaluation.model).resolve()
        places = [n for n, run in enumerate(facts) if run.model.resolve() == owner]
        if not places:
            raise UsageError(
                "--evaluation",
                f"is of {evaluation.model}, the model of none of the runs",
                f"run `mimkit evaluate --model {facts[0].model} ...`",
            )
        for place in places:
            given[place] = evaluation
    return given


def comparison(
    facts: Sequence[RunFacts], chapters: Sequence[Chapter], probed: Sequence[Probed]
) -> Table:
    """Return the runs side by side."""
    rows = []
    for run_facts, made, probes in zip(facts, chapters, probed, strict=True):
        scores, ends = run_facts.scores or {}, run_facts.ends("loss")
        line = None if probes.found is None else line_of(probes.found.probes, MODEL)
        rows.append(
            (
                Cell(run_facts.name, strong=True),
                run_facts.kind,
                "yes" if run_facts.finished else "no",
                "–" if ends is None else f"{ends[0]:.4g} → {ends[1]:.4g}",
                "–" if line is None else f"{line.balanced:.3f}",
                f"{scores['miou']:.3f}" if "miou" in scores else "–",
                str(len(made.verdict.problems)),
            )
        )
    head = ("run", "kind", "finished", "training loss", "probe (balanced)", "mean IoU", "problems")
    return Table(head, tuple(rows))


def render(page: Page, made_with: Section) -> str:
    """Return a page as HTML; every text is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader(__package__ or "", "reporting")
    # Everything is escaped, whatever the template is called.
    templates = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return templates.get_template(TEMPLATE).render(page=page, made_with=made_with)
