"""`mimkit demo`: the whole chain on the Landsat-8 pixels inside the package, command by command."""

from __future__ import annotations

import shlex
import shutil
import time
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

from ..core.checkpoints.model_dir import CONFIG_FILE
from ..core.errors import UserError
from ..core.heads.task import load_task
from ..domains.domain import get_domain
from .progress import say
from .reporting.quicklook import read_map, scene_rgb, write_quicklook

SCENE = "LC08_L1TP_224078_20200518_20200518_01_RT_crop.tif"
LABELS = "landcover.geojson"
ATTRIBUTION = "ATTRIBUTION.md"
RECIPE = "satellite/selectivemae-pixels-tiny"


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Go from a scene to a land-cover map and a report, in a few minutes on two CPU cores.

    The pixels come with the package: a part of a Landsat-8 scene (May 2020, Itaipu dam) with 74
    labelled polygons. Every step is printed as the command that does it. Give the command again
    after an interruption: it continues, and what is finished is not done twice.
    """

    out: Path = Path("runs/demo")
    """Folder for everything that is made."""
    epochs: int = 80
    """Epochs of pre-training; more take longer and give a better encoder."""
    finetune_epochs: int = 12
    """Epochs of fine-tuning."""
    device: str = "auto"
    """`cpu`, `cuda` or `auto` (cuda when there is one)."""
    num_threads: int = 1
    """CPU threads; the network is so small that several mostly wait for each other."""
    scenes_only: bool = False
    """Only copy the scene and its labels to OUT/scenes, to run the commands by hand."""


@dataclass(frozen=True)
class Layout:
    """Where the demo keeps what.

    Args:
        scenes: folder of the raw scene and its labels.
        store: curated tiles.
        pretrained: run of pre-training.
        evaluation: probes of the encoder.
        finetuned: run of fine-tuning.
        land_cover: map of the whole scene.
        picture: scene and map side by side.
        report: page about both runs.
    """

    scenes: Path
    store: Path
    pretrained: Path
    evaluation: Path
    finetuned: Path
    land_cover: Path
    picture: Path
    report: Path

    @classmethod
    def below(cls, root: Path) -> Layout:
        """Return the places in a folder."""
        return cls(
            scenes=root / "scenes",
            store=root / "store",
            pretrained=root / "pretrain",
            evaluation=root / "evaluation",
            finetuned=root / "finetune",
            land_cover=root / "landcover.tif",
            picture=root / "landcover.png",
            report=root / "report.html",
        )


@dataclass(frozen=True)
class Step:
    """One command.

    Args:
        title: what it is for.
        words: the command line after `mimkit`.
        makes: file that it writes last; None for a command that finds out by itself what to do.
        needs: files that it reads; when all are older than what it makes, it need not run again.
    """

    title: str
    words: tuple[str, ...]
    makes: Path | None = None
    needs: tuple[Path, ...] = ()

    @property
    def done(self) -> bool:
        """Whether the result is there and newer than what it was made from."""
        if self.makes is None or not self.makes.exists():
            return False
        made = self.makes.stat().st_mtime_ns
        return all(path.exists() and path.stat().st_mtime_ns <= made for path in self.needs)


def run(config: DemoConfig) -> None:
    """Run all steps and say where the results are.

    Raises:
        UsageError: when `out` holds a demo with other settings.
        DataError: when a step fails on its data.
    """
    began = time.monotonic()
    layout = Layout.below(config.out)
    say(f"The scene and its labels: {layout.scenes} (sources: {layout.scenes / ATTRIBUTION})")
    unpack(layout.scenes)
    if config.scenes_only:
        return
    steps = plan(config)
    for number, step in enumerate(steps, start=1):
        carry_out(step, number, len(steps))
    shares = write_picture(layout)
    say(closing(layout, shares, time.monotonic() - began))


def unpack(folder: Path) -> None:
    """Copy the scene, its labels and their sources out of the package; what is there stays."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (SCENE, LABELS, ATTRIBUTION):
        target = folder / name
        with as_file(files("mimkit") / "demo_data" / name) as source:
            if not target.exists() or target.stat().st_size != source.stat().st_size:
                shutil.copyfile(source, target)


def plan(config: DemoConfig) -> list[Step]:
    """Return the commands of the demo."""
    at = Layout.below(config.out)
    model, task = at.pretrained / "model", at.finetuned / "model"
    threads = str(config.num_threads)
    speed = ("--efficiency.device", config.device, "--efficiency.num-threads", threads)
    evaluation = at.evaluation / "evaluation.json"
    device = ("--device", config.device)
    return [
        Step("cut the scene into tiles and divide them by place", curate_words(at)),
        Step("look at what came out", ("inspect", str(at.store))),
        Step(
            "pre-train an encoder; no label is read",
            (*pretrain_words(at, config.epochs), *speed),
        ),
        Step(
            "compare its features with those of random weights and of plain colours",
            (
                *("evaluate", "--model", str(model), "--data", str(at.store)),
                *("--out", str(at.evaluation), "--draws", "3", "--random-seeds", "2"),
                *("--reconstruct", "32", "--device", "cpu"),
                *("--num-threads", threads),
            ),
            evaluation,
            (model / CONFIG_FILE,),
        ),
        Step(
            "fine-tune it for the classes of the polygons",
            (
                *("finetune", "--model", str(model), "--data", str(at.store)),
                *("--out", str(at.finetuned), "--epochs", str(config.finetune_epochs)),
                *("--batch-size", "8", "--optim.base-lr", "0.016"),
                *("--optim.warmup-epochs", str(config.finetune_epochs // 10), *speed),
            ),
        ),
        Step(
            "map the whole scene",
            (
                *("predict", str(at.scenes / SCENE), "--model", str(task)),
                *("--out", str(at.land_cover), *device, "--num-threads", threads),
            ),
            at.land_cover,
            (task / CONFIG_FILE,),
        ),
        Step(
            "write it all down",
            (
                *("report", str(at.pretrained), str(at.finetuned), "--data", str(at.store)),
                *("--evaluation", str(evaluation), "--out", str(at.report)),
                *("--title", "mimkit demo: Landsat 8 at the Itaipu dam", *device),
            ),
            at.report,
            (model / CONFIG_FILE, task / CONFIG_FILE, evaluation),
        ),
    ]


def curate_words(at: Layout) -> tuple[str, ...]:
    """Return the command that makes the store.

    Half-overlapping tiles give a small scene more of them; cells of 5 km keep the parts apart.
    """
    return (
        *("curate", str(at.scenes), "--out", str(at.store), "--masks", str(at.scenes / LABELS)),
        *("--size", "64", "--stride", "32", "--cell-km", "5"),
        *("--fractions", "0.7", "0.1", "0.2"),
        *("--collection", "landsat8-itaipu", "--licence", "public domain"),
    )


def pretrain_words(at: Layout, epochs: int) -> tuple[str, ...]:
    """Return the command that pre-trains.

    Small batches make many updates of few samples, which is what a minute on two cores can pay;
    the base rate is for 256 samples, so it looks large. Patches of 8 pixels are about the size of
    what the polygons show.
    """
    return (
        *("pretrain", "--recipe", RECIPE, "--data", str(at.store), "--out", str(at.pretrained)),
        *("--method.encoder.patch-size", "8"),
        *("--epochs", str(epochs), "--batch-size", "16", "--optim.base-lr", "0.048"),
        *("--optim.warmup-epochs", str(epochs // 10), "--efficiency.validate-every", "5"),
    )


def carry_out(step: Step, number: int, total: int) -> None:
    """Print a step as the command that it is, and run it unless its result is there.

    Raises:
        UserError: when the command ends with an exit code other than 0.
    """
    from .cli import dispatch  # the command line knows the demo, so it is imported when it is there

    say(f"\n[{number}/{total}] {step.title}\n$ {shlex.join(('mimkit', *step.words))}")
    if step.done:
        say(f"{step.makes} is there and up to date")
        return
    began = time.monotonic()
    code = dispatch(step.words)
    if code:
        raise UserError(f"step {number}", f"ended with exit code {code}", "see what it said above")
    say(f"({time.monotonic() - began:.0f} s)")


def write_picture(layout: Layout) -> dict[str, float]:
    """Write scene and map side by side; returns the share of every class."""
    task = load_task(layout.finetuned / "model")
    normaliser = get_domain(task.normaliser["domain"]).normaliser(task.normaliser)
    image = scene_rgb(layout.scenes / SCENE, normaliser)
    classes = read_map(layout.land_cover)
    return write_quicklook(image, classes, task.config.classes, layout.picture)


def closing(layout: Layout, shares: dict[str, float], seconds: float) -> str:
    """Return what was made and what to do next."""
    made = (
        ("store", layout.store, "curated tiles, manifest.parquet, card.json"),
        ("encoder", layout.pretrained / "model", "weights with timm's names, normaliser, card"),
        ("states", layout.pretrained / "checkpoints", "from which the run continues"),
        ("task model", layout.finetuned / "model", "encoder and head"),
        ("map", layout.land_cover, "cloud-optimised GeoTIFF, opens in any GIS"),
        ("picture", layout.picture, ", ".join(f"{n} {s:.0%}" for n, s in shares.items())),
        ("report", layout.report, "open it in a browser"),
    )
    width = max(len(str(path)) for _, path, _ in made)
    lines = [f"  {name:<10}  {path!s:<{width}}  {text}" for name, path, text in made]
    model = layout.finetuned / "model"
    return "\n".join(
        [
            f"\nDone in {seconds / 60:.1f} minutes.",
            *lines,
            "",
            "See what pre-training is worth: the same fine-tuning from random weights",
            f"  mimkit finetune --scratch --model {layout.pretrained / 'model'} "
            f"--data {layout.store} --out runs/scratch",
            "Try next, with your own scenes:",
            "  mimkit doctor",
            "  mimkit inspect SCENES",
            "  mimkit curate SCENES --out store --masks POLYGONS.gpkg",
            f"  mimkit pretrain --recipe {RECIPE} --data store --out runs/pretrain",
            f"  mimkit predict SCENE.tif --model {model} --out map.tif  (Landsat 8, bands 2 3 4)",
        ]
    )
