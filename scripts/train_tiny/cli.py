"""The command line: runs the stages in order, each from its checkpoint if there is one."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from .card import write_card
from .checkpoint import training_time
from .classifier import train_classifier
from .evaluate import evaluate_pipeline
from .export import export_pipeline
from .flow import FlowStage, load_latents
from .flow_training import train_distillation, train_flow
from .member_cli import MEMBERS, train_member
from .members import MEMBER_STAGES
from .text import train_text
from .vae import train_decoder, train_vae

STAGES = (
    "vae", "text", "latents", "flow", "distill", "decoder", "export", "classifier", "evaluate",
    "card",
)  # fmt: skip
# Those of them that train a part of the model.
TRAINED_STAGES = ("vae", "text", "flow", "distill", "decoder")
BASE = "flux-dev"
# About an hour on two idle cores.
STEPS = {
    "vae": 4500,
    "text": 1000,
    "flow": 10_000,
    "distill": 600,
    "decoder": 1200,
    "classifier": 400,
}
PICTURES = 16_000
# What the times in the model card are about.
CPU_THREADS = 2


@dataclass(frozen=True)
class Run:
    """One run's settings."""

    seed: int
    workdir: Path
    out: Path
    device: torch.device
    last_stage: str
    steps_scale: float

    def steps(self, stage: str) -> int:
        return max(1, round(STEPS[stage] * self.steps_scale))

    @property
    def pictures(self) -> int:
        """How many drawings the flow learns from."""
        return max(320, round(PICTURES * min(1.0, self.steps_scale)))

    def wants(self, stage: str) -> bool:
        return STAGES.index(stage) <= STAGES.index(self.last_stage)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="train_tiny", description=__doc__)
    names = [BASE, *MEMBERS]
    parser.add_argument("model", choices=names, help="which member of the family to train")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workdir", type=Path, default=Path("build/tiny"), help="checkpoints")
    parser.add_argument("--out", type=Path, help="default: models/tiny-MODEL")
    parser.add_argument("--base", type=Path, help="the model that this one adds to")
    parser.add_argument(
        "--whole", action="store_true", help="train all weights, not a Control-LoRA"
    )
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    stages = dict.fromkeys((*STAGES, *MEMBER_STAGES))
    parser.add_argument("--stage", choices=stages, default=STAGES[-1], help="the last stage to run")
    parser.add_argument(
        "--threads",
        type=int,
        default=CPU_THREADS,
        help="on a CPU; two members at once, on one thread each, take less time than one by one",
    )
    parser.add_argument("--steps-scale", type=float, default=1.0, help="shortens or lengthens all")
    values = parser.parse_args(arguments)
    if values.stage not in (STAGES if values.model == BASE else MEMBER_STAGES):
        parser.error(f"{values.model} has no stage {values.stage}")
    return values


def main(arguments: list[str] | None = None) -> None:
    values = parse_arguments(arguments)
    name = values.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cpu":
        torch.set_num_threads(values.threads)
    began = time.monotonic()
    if values.model == BASE:
        out = values.out or Path("models") / f"tiny-{BASE}"
        train(Run(values.seed, values.workdir, out, device, values.stage, values.steps_scale))
    else:
        train_member(values, device)
    minutes = (time.monotonic() - began) / 60
    print(f"{values.stage} done after {minutes:.1f} minutes on {device}")


def train(run: Run) -> None:
    vae = train_vae(run.workdir, run.seed, run.steps("vae"), run.device)
    if not run.wants("text"):
        return
    encoders = train_text(run.workdir, run.seed, run.steps("text"), run.device)
    if not run.wants("latents"):
        return
    sets = load_latents(run.workdir, vae, run.pictures, run.seed, run.device)
    if not run.wants("flow"):
        return

    def snapshot(stage: FlowStage) -> None:
        export_pipeline(stage, vae, run.out)

    stage = train_flow(
        run.workdir, encoders, sets, run.seed, run.steps("flow"), run.device, snapshot
    )
    if run.wants("distill"):
        stage = train_distillation(
            run.workdir, stage, sets, run.seed, run.steps("distill"), run.device
        )
    if run.wants("decoder"):
        train_decoder(run.workdir, vae, run.seed, run.steps("decoder"), run.device)
    if run.wants("export"):
        export_pipeline(stage, vae, run.out)
    if run.wants("classifier"):
        judge(run)


def judge(run: Run) -> None:
    """Measures the exported folder as it will be shipped, and writes its card."""
    classifier = train_classifier(run.workdir, run.seed, run.steps("classifier"), run.device)
    if run.wants("evaluate"):
        figures = evaluate_pipeline(run.out, classifier.to("cpu"), run.seed)
        figures |= training_time(run.workdir / f"{stage}.pt" for stage in TRAINED_STAGES)
        text = json.dumps(figures, indent=2, ensure_ascii=False) + "\n"
        (run.out / "figures.json").write_text(text, encoding="utf-8")
        print(text)
    if run.wants("card"):
        write_card(run.out, {stage: run.steps(stage) for stage in STEPS}, run.pictures)
