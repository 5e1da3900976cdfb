"""The command line: a table of verbs; a verb's module is imported when the verb is used.

A verb is a module with a frozen keyword-only dataclass, whose field docstrings are the help, and a
function `run(config)`. An integer that `run` returns is the exit code. Where the defaults depend
on the arguments (a recipe by name), the module has a function `defaults(argv)` that returns the
configuration to start from, or None.

Where a domain needs other settings than satellite scenes, its name is the next word
(`mimkit curate ct`), and that line of the verb's table is used.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib import import_module
from inspect import cleandoc
from typing import Any

DEBUG = "--debug"
DEFAULT_DOMAIN = "satellite"


@dataclass(frozen=True)
class Verb:
    """One line of the table.

    Args:
        module: where it lives, relative to this package.
        config: name of its configuration in that module.
        help: what it does, in one line.
        domains: the same verb for files of other domains, by the domain's name.
    """

    module: str
    config: str
    help: str
    domains: Mapping[str, Verb] = field(default_factory=dict)


VERBS: dict[str, Verb] = {
    "doctor": Verb("doctor", "DoctorConfig", "check this machine and say what will be slow"),
    "demo": Verb("demo", "DemoConfig", "run the whole chain on pixels inside the package"),
    "recipe": Verb("recipe_verb", "RecipeConfig", "list, show or compare recipes"),
    "curate": Verb(
        "curate.run",
        "CurateConfig",
        "turn scenes into a store for training",
        domains={
            "ct": Verb("curate.ct", "CurateCtConfig", "turn CT volumes into a store"),
            "faces": Verb("curate.faces", "CurateFacesConfig", "turn pictures of faces into one"),
        },
    ),
    "inspect": Verb("inspect", "InspectConfig", "describe a file, a store, a model or a run"),
    "pretrain": Verb("pretrain", "PretrainConfig", "train an encoder on a store, without labels"),
    "finetune": Verb("finetune", "FinetuneConfig", "train a model for a task, with labels"),
    "evaluate": Verb(
        "evaluate",
        "EvaluateConfig",
        "measure a frozen encoder with probes",
        domains={
            "ct": Verb("volumes.evaluate", "EvaluateCtConfig", "score a model on whole volumes"),
            "faces": Verb("faces.evaluate", "EvaluateFacesConfig", "judge a detector of fakes"),
        },
    ),
    "embed": Verb("embed", "EmbedConfig", "write the embeddings of scenes or of a store"),
    "predict": Verb(
        "predict",
        "PredictConfig",
        "write a map for a scene of any size",
        domains={
            "ct": Verb("volumes.predict", "PredictCtConfig", "write label maps of CT volumes"),
            "faces": Verb(
                "faces.predict", "PredictFacesConfig", "score faces in photos and videos"
            ),
        },
    ),
    "report": Verb("report", "ReportConfig", "write a run as one self-contained HTML page"),
    "import": Verb("import_weights", "ImportConfig", "turn published weights into a model"),
    "export": Verb("export", "ExportConfig", "write a model for other libraries"),
    "benchmark": Verb("benchmark", "BenchmarkConfig", "measure speed and memory"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        argv: words after the program's name; those of the process by default.

    Returns:
        exit code: 0 done, 1 bad data or a failure, 2 wrong usage, 130 interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = DEBUG in words
    words = [word for word in words if word != DEBUG]
    try:
        code = dispatch(words)
        sys.stdout.flush()
    except SystemExit as stop:  # argument parsers end this way
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        print("mimkit: interrupted; the same command continues where it can.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader went away (`| head`). Python would complain once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if debug:
            traceback.print_exc()
        print(f"mimkit: {sentence(error)}", file=sys.stderr)
        return getattr(error, "exit_code", 1)
    return code


def dispatch(words: Sequence[str]) -> int:
    """Find the verb, build its configuration and run it.

    Returns:
        the exit code.

    Raises:
        UsageError: for an unknown verb.
    """
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return 0 if words else 2
    if words[0] == "--version":
        from mimkit import __version__

        print(f"mimkit {__version__}")
        return 0
    verb, rest = find(words[0]), list(words[1:])
    name = words[0]
    if rest and rest[0] in (DEFAULT_DOMAIN, *verb.domains) and verb.domains:
        name, verb = f"{name} {rest[0]}", verb.domains.get(rest[0], verb)
        rest = rest[1:]
    module = import_module(f".{verb.module}", __package__)
    result = module.run(parse(name, verb, module, rest))
    return result if isinstance(result, int) and not isinstance(result, bool) else 0


def find(name: str) -> Verb:
    """Return a verb's line of the table.

    Raises:
        UsageError: for an unknown name, with the nearest known one.
    """
    if name not in VERBS:
        from ..core.errors import UsageError

        near = get_close_matches(name, VERBS, n=1)
        remedy = f"use {near[0]!r}" if near else "see `mimkit --help`"
        raise UsageError(f"verb {name!r}", "is not known", remedy)
    return VERBS[name]


def parse(name: str, verb: Verb, module: Any, words: list[str]) -> Any:
    """Return the configuration that the words describe.

    Args:
        name: verb, and domain if one was named, for the help.
        verb: line of the table.
        module: of the verb.
        words: what follows the name.

    Raises:
        SystemExit: 0 after help, 2 when the words are wrong (tyro prints why).
    """
    import tyro

    defaults = getattr(module, "defaults", None)
    start = defaults(words) if defaults else None
    config = getattr(module, verb.config)
    return tyro.cli(
        config,
        args=words,
        prog=f"mimkit {name}",
        description="\n\n".join([cleandoc(config.__doc__ or ""), *domain_forms(name, verb)]),
        config=(tyro.conf.AvoidSubcommands,),
        **({} if start is None else {"default": start}),
    )


def domain_forms(name: str, verb: Verb) -> list[str]:
    """Return, for each other domain of a verb, what to type and what it does."""
    return [f"mimkit {name} {domain} --help: {form.help}." for domain, form in verb.domains.items()]


def overview() -> str:
    """Return the help of the program: every verb with one line, and its forms for domains."""
    table = {
        f"{name} {domain}".rstrip(): form.help
        for name, verb in VERBS.items()
        for domain, form in {"": verb, **verb.domains}.items()
    }
    width = max(map(len, table))
    lines = [f"  {name:<{width}}  {text}" for name, text in table.items()]
    return "\n".join(
        [
            "mimkit: masked image modeling from raw files to maps.",
            "",
            "usage: mimkit VERB [options]     mimkit VERB --help explains a verb",
            "",
            *lines,
            "",
            "  --debug    show the traceback of an error",
            "  --version  print the version",
        ]
    )


def sentence(error: Exception) -> str:
    """Return one sentence for an error; errors for users have written theirs themselves."""
    if hasattr(error, "exit_code"):
        return str(error)
    text = " ".join(str(error).split())
    if isinstance(error, OSError):
        return f"{text}; check the path, its permissions and the space left on the disk."
    frame = traceback.extract_tb(error.__traceback__)[-1:]
    where = f" in {frame[0].name}" if frame else ""
    return (
        f"unexpected {type(error).__name__}{where}: {text}; run again with {DEBUG} and report it."
    )
