"""`edge-train pretrain`: first weights for the classifier, taught by simulated scans."""

from __future__ import annotations

import argparse
from dataclasses import fields

from edge.system.progress import Reporter
from train.commands.options import Verbs, add_command, add_fields, add_jobs, add_out, runner
from train.recipe import Pretraining


def add_to(verbs: Verbs[argparse.ArgumentParser]) -> None:
    """Add the verb and its options."""
    verb = add_command(
        verbs,
        "pretrain",
        "teach a backbone by simulated scans: first weights for want of others",
        pretrain,
        description="Needs no scans and no download: for plants that have no ImageNet weights. Scans are drawn in"
        " memory, and the backbone learns where their anomalies lie, of which kind and how severe they are. Writes"
        " backbone.pth, a file for --weights of crossval, fit-features and fine-tune. Goes on after a kill.",
        examples=(
            "edge-train pretrain --out first-weights",
            "edge-train pretrain --out first-weights --steps 8000 --jobs 4 --device cuda",
        ),
        exits=(),
    )
    add_out(verb, "folder for backbone.pth and what it was taught by")
    add_fields(verb, Pretraining())
    add_jobs(verb, "processes that draw scans")


def pretrain(options: argparse.Namespace, reporter: Reporter) -> int:
    """Teach a backbone; says what came of it and prints the path of the weights."""
    from train.pretraining.backbone import WEIGHTS_FILE
    from train.pretraining.backbone import pretrain as pretrained

    recipe = Pretraining(**{field.name: getattr(options, field.name) for field in fields(Pretraining)})
    with runner(options.jobs) as where:
        came = pretrained(recipe, options.out, where, reporter)
    first, last = (sum(part) / len(part) for part in (came.losses[:50], came.losses[-50:]))
    reporter.say(f"loss {first:.2f} in the first steps, {last:.2f} in the last; weights {came.sha256[:12]}")
    print(options.out / WEIGHTS_FILE)
    return 0
