"""The commands: parse, call, print."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from medcl.foundation.conversation import Conversation
from medcl.foundation.errors import UserError
from medcl.foundation.memory import keep_freed

app = typer.Typer(
    help="Contrastive pretraining for medical images: raw scans in, a backbone and an honest label-efficiency page out.",
    epilog="Start with: medcl demo",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[
    bool, typer.Option("--json", help="Put one JSON object on stdout, everything else on stderr.", rich_help_panel="Every command")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.", rich_help_panel="Every command")]
_SOURCES = typer.Argument(metavar="SOURCE...", help="Folders, files or globs: DICOM, NIfTI, PNG/JPEG, MedMNIST .npz.")
Sources = Annotated[list[Path], _SOURCES]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY.PATH=VALUE]...", help="Laid over the YAML before it is checked.")]
Jobs = Annotated[int, typer.Option(min=1, help="How many processes work side by side.")]
Dask = Annotated[str | None, typer.Option(metavar="ADDRESS", help="A Dask scheduler, such as tcp://host:8786, whose workers do it.")]
Settings = Annotated[Path | None, typer.Option(metavar="YAML", help="Settings of ingest, where the defaults do not fit.")]
Strength = Literal["light", "default", "strong"]
TARGETS = ("backbone", "onnx", "monai", "nnunet", "huggingface")


def _target(name: str | None) -> str | None:
    """Refuse a target that nobody has, before anything heavy is imported."""
    from importlib.metadata import entry_points

    known = (*TARGETS, *(entry.name for entry in entry_points(group="medcl.exports")))
    if name is not None and name not in known:
        raise typer.BadParameter(f"expected one of {', '.join(known)}")
    return name


@app.callback(invoke_without_command=True)
def _all(context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    if version:
        import medcl

        typer.echo(f"medcl {medcl.__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command(epilog="Example: medcl demo --out runs/demo --minutes 10")
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the demo.")] = Path("runs/demo"),
    minutes: Annotated[float, typer.Option(min=1, help="How long it may take on two cores.")] = 10,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a small cohort and run the whole path on it, from raw scans to the page."""
    with Conversation("demo", as_json, quiet) as talk:
        from medcl.demo import demo as run_demo

        result = run_demo(out, minutes=minutes, progress=talk.progress)
        talk.done(
            result.lines, {"page": result.page}, next=f"open {result.page} in a browser; then: medcl ingest YOUR_SCANS --out data/mine"
        )


@app.command(epilog="Example: medcl ingest export/ --out data/ct --reports reports.csv --labels labels.csv --jobs 4")
def ingest(
    out: Annotated[Path, typer.Option(help="The DATA folder to make; with --audit-privacy, the one whose identifiers to look for.")],
    sources: Annotated[list[Path] | None, _SOURCES] = None,
    reports: Annotated[Path | None, typer.Option(metavar="CSV", help="Report texts, one row per study.")] = None,
    labels: Annotated[Path | None, typer.Option(metavar="CSV", help="Labels, one row per file, study or patient.")] = None,
    settings: Settings = None,
    jobs: Jobs = 1,
    dask: Dask = None,
    images: Annotated[bool, typer.Option(help="Whether overview.html shows thumbnails of scans.")] = True,
    audit_privacy: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Read no scans; look through DIR for the identifiers that DATA/private knows.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Read raw scans into a manifest without identifiers, and list what became of every file."""
    with Conversation("ingest", as_json, quiet) as talk:
        if (audit_privacy is None) == (not sources):
            raise UserError("give SOURCE... to ingest, or --audit-privacy DIR with the --out of an earlier ingest; one of the two")
        if audit_privacy is not None:
            _audit(talk, audit_privacy, out)
            return
        from medcl.ingest.run import ingest as ingest_scans

        chosen = _ingest_settings(settings)
        summary = ingest_scans(
            sources or [],
            out,
            reports=reports,
            labels=labels,
            settings=chosen,
            jobs=jobs,
            dask=dask,
            progress=talk.progress,
            images=images,
        )
        talk.done(summary.lines, summary.counts, next=_after_ingest(summary.modalities, out))


@app.command(epilog="Example: medcl convert export/ --out nifti/")
def convert(
    sources: Sources,
    out: Annotated[Path, typer.Option(help="Folder for the NIfTI files and the ledger.")],
    settings: Settings = None,
    jobs: Jobs = 1,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write what ingest would use as NIfTI, one .nii.gz per volume, with the ledger."""
    with Conversation("convert", as_json, quiet) as talk:
        from medcl.ingest.to_nifti import convert as write_nifti

        summary = write_nifti(sources, out, settings=_ingest_settings(settings), jobs=jobs, progress=talk.progress)
        talk.done(summary.lines, summary.counts, next=f"{out}/private/sources.parquet says which file came from where")


@app.command(epilog="Example: medcl prepare data/ct --out data/ct/store --recipe ct --jobs 4")
def prepare(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder that ingest made.")],
    out: Annotated[Path, typer.Option(help="The STORE folder to make.")],
    recipe: Annotated[
        str | None, typer.Option(help="ct, mr, pet, xray, mammography, ultrasound, shape or a YAML file; without it, the modality's own.")
    ] = None,
    jobs: Jobs = 1,
    dask: Dask = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would take: disk, memory, time.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Bring volumes to one orientation, spacing and intensity scale, in chunks that are quick to read."""
    with Conversation("prepare", as_json, quiet) as talk:
        from medcl.store.prepare import prepare as prepare_store

        chosen = _recipe(data, recipe)
        summary = prepare_store(data, out, chosen, jobs=jobs, dask=dask, progress=talk.progress, dry_run=dry_run)
        follow = shlex.join(["medcl", "preview", str(out), "--out", f"{out}-preview"])
        lines = [f"{summary.volumes} volumes of {summary.patients} patients, {summary.masks} masks, recipe {chosen.name}: {out}"]
        lines += [f"{number} refused: {code}; see {out}/ledger.parquet" for code, number in summary.refused.items()]
        if summary.estimate is not None:
            lines = [f"{summary.volumes} volumes would take {summary.estimate}; nothing was written"]
            follow = shlex.join(["medcl", "prepare", str(data), "--out", str(out), "--recipe", recipe or chosen.name])
        talk.done(lines, summary.as_dict(), next=follow)


@app.command(epilog="Example: medcl preview data/ct/store --policy ct --out preview/")
def preview(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="Folder that prepare made.")],
    out: Annotated[Path, typer.Option(help="Folder for the contact sheet and the figures.")],
    policy: Annotated[str | None, typer.Option(help="Name of a built-in policy or a YAML file; without it, the recipe's own.")] = None,
    strength: Annotated[Strength, typer.Option(help="How far and how often its steps act.")] = "default",
    paired: Annotated[bool, typer.Option("--paired", help="Views are paired with reports: stricter rules.")] = False,
    size: Annotated[str | None, typer.Option(metavar="X,Y[,Z]", help="Voxel grid of a view, such as 96,96,96.")] = None,
    config: Annotated[Path | None, typer.Option(metavar="CONFIG.yaml", help="A pretraining's own views, instead of these four.")] = None,
    count: Annotated[int, typer.Option(min=1, help="How many items to draw.")] = 8,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Draw augmented views for a person to look at, and measure what they did to your data."""
    with Conversation("preview", as_json, quiet) as talk:
        drawn = {"seed": seed, "count": count, "progress": talk.progress}
        if config is None:
            from medcl.views.audit import preview_store

            audit = preview_store(store, out, policy=policy, strength=strength, size=_size(size), paired=paired, **drawn)
        else:
            from medcl.api import preview as preview_run

            if policy or paired or size or strength != "default":
                raise UserError("--config: brings its own policy, strength, size and pairing; leave out those options")
            audit = preview_run(config, {"store": store}, out=out, **drawn)
        lines = [f"the views keep within the bounds of policy {audit['views']['policy']['name']}: {out}/index.html"]
        follow = shlex.join(["medcl", "pretrain", str(config or "CONFIG.yaml"), f"store={store}"])
        talk.done(lines, audit, next=f"open {out}/index.html in a browser; then: {follow}")


@app.command(epilog="Example: medcl pretrain configs/pretrain/ct_moco.yaml training.num_steps=1000 --out runs/ct_moco")
def pretrain(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="What to train, on which store.")],
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="The RUN folder; without it, runs/ and the config's name.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would take, from ten steps: memory, disk, time.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Pretrain a backbone. The same line again goes on where it stopped."""
    with Conversation("pretrain", as_json, quiet) as talk:
        _readable(talk, config, overrides)
        from medcl.api import pretrain as run_pretraining
        from medcl.api import rehearse_pretraining

        folder = out or Path("runs") / config.stem
        if dry_run:
            figures, lines = rehearse_pretraining(config, overrides or [], out=folder, progress=talk.progress)
            talk.done(lines, vars(figures), next=shlex.join(["medcl", "pretrain", str(config), *(overrides or []), "--out", str(folder)]))
            return
        run = run_pretraining(config, overrides or [], out=folder, progress=talk.progress)
        study = shlex.join(["medcl", "evaluate", "STUDY.yaml", f"inits.pretrained={run.backbone}"])
        follow = f"{study}, or {shlex.join(['medcl', 'export', str(run.folder)])} --to onnx --out onnx/"
        talk.done(run.lines, {"run": run.folder, "backbone": run.backbone}, next=follow)


@app.command(epilog="Example: medcl evaluate configs/evaluate/classification.yaml draws=3 --out runs/study")
def evaluate(
    study: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="Which backbones to compare, on which labels.")],
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="The STUDY folder; without it, runs/ and the study's name.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Fits made side by side; by default one per core, or one with a GPU.")] = None,
    dask: Dask = None,
    task: Annotated[int | None, typer.Option(help="Only every --tasks-th fit, from this one on: one task of an array.")] = None,
    tasks: Annotated[int | None, typer.Option(min=1, help="How many tasks the array has.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure how many labels a backbone saves. The same line again goes on where it stopped."""
    with Conversation("evaluate", as_json, quiet) as talk:
        _readable(talk, study, overrides)
        from medcl.api import evaluate as run_study
        from medcl.api import evaluate_share
        from medcl.evaluation.jobs import Jobs, cores

        folder = out or Path("runs") / study.stem
        chosen = Jobs(jobs or (1 if dask or task is not None else cores()), dask, task, tasks)
        if task is not None:
            lines = evaluate_share(study, overrides or [], task=task, tasks=tasks or 1, out=folder, progress=talk.progress)
            follow = shlex.join(["medcl", "evaluate", str(study), *(overrides or []), "--out", str(folder)])
            talk.done(lines, {"study": folder}, next=f"when all tasks are done: {follow}")
            return
        result = run_study(study, overrides or [], out=folder, jobs=chosen.side_by_side, dask=dask, progress=talk.progress)
        talk.done(result.lines, {"study": result.folder, "headline": result.headline}, next=f"open {result.folder}/page.html in a browser")


@app.command(epilog="Example: medcl embed runs/ct_moco/backbone scans/ --out embeddings.parquet")
def embed(
    backbone: Annotated[Path, typer.Argument(metavar="BACKBONE", help="Folder of a backbone, or a RUN.")],
    scans: Annotated[list[Path], typer.Argument(metavar="SCAN...", help="Scans in any form that ingest reads.")],
    out: Annotated[Path, typer.Option(help="embeddings.parquet or embeddings.npz")],
    settings: Settings = None,
    jobs: Jobs = 1,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Turn scans into embeddings, prepared as the backbone was trained; what contradicts it is refused."""
    with Conversation("embed", as_json, quiet, loads=True) as talk:
        from medcl.export.embed import embed_files

        chosen = None if settings is None else _ingest_settings(settings)
        result = embed_files(backbone, scans, out, settings=chosen, jobs=jobs, progress=talk.progress)
        talk.done(
            result.lines,
            {**result.counts, "left_out": result.refused},
            next=f"{out}: one row per volume; `scan` counts the SCANs from 0, `pixel_hash` is that of a manifest",
        )


@app.command(epilog="Example: medcl export runs/ct_moco --to onnx --out onnx/")
def export(
    run: Annotated[Path | None, typer.Argument(metavar="RUN", help="Folder of a run, or of a backbone.")] = None,
    to: Annotated[str | None, typer.Option(metavar="TARGET", callback=_target, help=f"{', '.join(TARGETS)}, or a plugin's own.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write; it must not hold another export.")] = None,
    into: Annotated[str | None, typer.Option(metavar="NETWORK", help="With monai: SwinUNETR, UNETR, SegResNetDS or FlexibleUNet.")] = None,
    plans: Annotated[Path | None, typer.Option(metavar="JSON", help="With nnunet: the plans of the data set to train on.")] = None,
    configuration: Annotated[str | None, typer.Option(help="With --plans: 3d_fullres, 2d, ...")] = None,
    check: Annotated[Path | None, typer.Option(metavar="DIR", help="Verify an exported folder instead: nothing altered since.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a backbone for other software, load it back there and compare; or verify what was written."""
    with Conversation("export", as_json, quiet, loads=True) as talk:
        from medcl.export.targets import check_export
        from medcl.export.targets import export as write_export

        if check is not None:
            if any(one is not None for one in (run, to, out, into, plans, configuration)):
                raise UserError("--check: verifies a folder and writes nothing; leave out RUN, --to, --out and what goes with them")
            result = check_export(check)
            talk.done(result.lines, result.proof, next=f"{check} is as it was written")
            return
        if run is None or to is None or out is None:
            raise UserError("export: needs RUN, --to and --out, for example: medcl export runs/ct_moco --to onnx --out onnx/")
        result = write_export(run, to, out, progress=talk.progress, into=into, plans=plans, configuration=configuration)
        talk.done(result.lines, result.proof, next=result.next)


@app.command(epilog="Example: medcl report runs/study --out page.html")
def report(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN_OR_STUDY...", help="Folders that pretrain or evaluate made.")],
    out: Annotated[Path, typer.Option(help="The page: one HTML file that holds everything.")],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make one self-contained HTML page from runs and studies."""
    with Conversation("report", as_json, quiet, loads=True) as talk:
        from medcl.reporting.page import write_report

        write_report(folders, out)
        talk.done([f"wrote {out}"], {"page": out}, next=f"open {out} in a browser")


@app.command(epilog="Example: medcl doctor")
def doctor(as_json: Json = False, quiet: Quiet = False) -> None:
    """Say what is here, what is missing and how to get it."""
    with Conversation("doctor", as_json, quiet) as talk:
        from medcl.doctor import examine

        result = examine()
        talk.done(result.lines, {"findings": result.findings}, next=result.next, code=0 if result.healthy else 2)


def main() -> None:
    """Run the command line; the exit codes are those of contract.md."""
    # Read when torch is loaded: after so many turns a thread that waits for another one sleeps. By default ten times as many, which costs
    # a machine that is shared several times the time of a step (reports/training/waiting_threads.md).
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "30000")
    keep_freed()
    try:
        code = app(sys.argv[1:], prog_name="medcl", standalone_mode=False)
    except Exception as error:
        if not hasattr(error, "format_message"):  # not one of typer's usage errors
            raise
        command = getattr(getattr(error, "ctx", None), "command_path", "medcl")
        print(f"{command}: {error.format_message()}\nTry: {command} --help", file=sys.stderr)  # type: ignore[attr-defined]
        sys.exit(2)
    sys.exit(code if isinstance(code, int) else 0)


def _readable(talk: Conversation, path: Path, overrides: list[str] | None) -> None:
    """Refuse what is no YAML or no KEY=VALUE at once: what else there is to refuse, torch and MONAI must be loaded for."""
    from medcl.foundation.config import apply_overrides, read_yaml

    apply_overrides(read_yaml(path), overrides or ())
    talk.loading()


def _audit(talk: Conversation, folder: Path, data: Path) -> None:
    """Exit 3 where an identifier is found."""
    from medcl.ingest.audit import audit_privacy

    audit = audit_privacy(folder, data, progress=talk.progress)
    follow = f"column `fingerprint` of {data}/private/identifiers.parquet says which; remove these files" if audit.leaks else "share it"
    talk.done(audit.lines, audit.counts, next=follow, code=3 if audit.leaks else 0)


def _size(text: str | None) -> tuple[int, ...] | None:
    try:
        size = None if text is None else tuple(int(part) for part in text.split(","))
    except ValueError:
        size = ()
    if size is not None and (len(size) not in (2, 3) or min(size) < 1):
        raise UserError(f"--size {text}: expected two or three whole numbers, for example 96,96,96")
    return size


def _after_ingest(modalities: dict[str, int], out: Path) -> str:
    """What to do with a DATA folder that holds scans of these modalities."""
    from medcl.store.recipe import BUILT_IN

    fitting = [modality for modality in modalities if modality in BUILT_IN]
    if not fitting and set(modalities) == {"unknown"}:
        return f"the files do not say what they show: put `modality: {next(iter(BUILT_IN))}` (or another) into --settings, and ingest again"
    return shlex.join(["medcl", "prepare", str(out), "--out", f"{out}/store", "--recipe", fitting[0] if fitting else "FILE.yaml"])


def _recipe(data: Path, name: str | None) -> Any:
    """The recipe that was asked for, or the built-in one of the data's only modality."""
    from medcl.foundation.files import read_card
    from medcl.store.recipe import BUILT_IN, load_recipe

    if name is not None:
        return load_recipe(name)
    modalities = list(read_card(data, "data").get("modalities") or {})
    if len(modalities) != 1 or modalities[0] not in BUILT_IN:
        raise UserError(
            f"{data}: holds {', '.join(modalities) or 'nothing'}; say which recipe: --recipe {'|'.join(BUILT_IN)} or a YAML file"
        )
    return load_recipe(modalities[0])


def _ingest_settings(path: Path | None) -> Any:
    from medcl.foundation.config import load
    from medcl.ingest.settings import IngestConfig

    return IngestConfig.model_validate({}) if path is None else load(IngestConfig, path)
