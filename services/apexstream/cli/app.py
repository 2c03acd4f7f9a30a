"""Every command and its options. Nothing heavy is imported here: what a command needs, it imports when it runs."""

from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(
    name="apexstream",
    help="Durable, resumable, live streams of plugin results on Apache Kafka.",
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
topics_app = typer.Typer(help="The platform's topics on the cluster.", rich_markup_mode=None)
plugins_app = typer.Typer(help="The plugins installed here.", rich_markup_mode=None)
dashboards_app = typer.Typer(help="The dashboards at a Grafana (GRAFANA_URL).", rich_markup_mode=None)
app.add_typer(topics_app, name="topics")
app.add_typer(dashboards_app, name="dashboards")
app.add_typer(plugins_app, name="plugins")
letters_app = typer.Typer(help="Tasks that failed for good.", rich_markup_mode=None)
app.add_typer(letters_app, name="dead-letters")

Output = Literal["text", "json"]
OutputOption = Annotated[Output, typer.Option("-o", "--output", help="text, or json: one value a line.")]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Also what moves keys between partitions, or keeps one copy where three fit.")
]
TaskArgument = Annotated[str, typer.Argument(metavar="TASK", help="The task's id.")]
UrlOption = Annotated[str, typer.Option("--url", help="The gateway's address.", show_default=False)]
ParamsOption = Annotated[
    list[str],
    typer.Option("-p", "--param", metavar="KEY=VALUE", help="A parameter: key=value, or key:=JSON. Repeatable."),
]
TierOption = Annotated[
    str, typer.Option("--tier", help="How urgent the task is: one of APEX_TIERS.", show_default="APEX_TIER_DEFAULT")
]


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and leave.", is_eager=True)] = False,
) -> None:
    """Durable, resumable, live streams of plugin results on Apache Kafka."""
    if version:
        show_version()
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command("up")
def up_command(
    *,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port of the gateway; 0: any free one.")] = None,
    run: Annotated[
        tuple[str, str] | None,
        typer.Option("--run", metavar="PLUGIN ACTION", help="Run this action once all is ready."),
    ] = None,
    param: ParamsOption = [],  # noqa: B006 - typer copies it
    tier: TierOption = "",
    output: OutputOption = "text",
    once: Annotated[bool, typer.Option("--once", help="Stop everything when the action of --run has ended.")] = False,
    timings: Annotated[
        bool, typer.Option("--timings", help="Write how long each phase took to stderr, as JSON.")
    ] = False,
) -> None:
    """Start everything on this machine: broker, topics, gateway, dispatcher, runner, archiver. Ctrl-C stops it in order."""
    from apexstream.cli.plan import FirstRun, Plan
    from apexstream.cli.up import up

    if once and run is None:
        raise typer.BadParameter("it needs --run PLUGIN ACTION", param_hint="--once")
    if param and run is None:
        raise typer.BadParameter("it needs --run PLUGIN ACTION", param_hint="-p")
    first = FirstRun(*run, param, tier, output, once) if run else None
    raise typer.Exit(up(Plan(port=port, first=first, timings=timings)))


@app.command("serve")
def serve_command(
    service: Annotated[
        Literal["gateway", "dispatcher", "runner", "archiver", "processors"], typer.Argument(help="Which one.")
    ],
    supervisor_fd: Annotated[int | None, typer.Option("--supervisor-fd", hidden=True)] = None,
) -> None:
    """Run one service in this process, until SIGTERM or Ctrl-C. Containers and `apexstream up` use it."""
    from apexstream.cli.serve import serve

    raise typer.Exit(serve(service, supervisor_fd))


@app.command("run")
def run_command(
    plugin: Annotated[str, typer.Argument(help="The plugin's name.")],
    action: Annotated[str, typer.Argument(help="The action's name.")],
    *,
    param: ParamsOption = [],  # noqa: B006 - typer copies it
    tier: TierOption = "",
    local: Annotated[
        bool, typer.Option("--local", help="Run the action in this process, without gateway and Kafka.")
    ] = False,
    output: OutputOption = "text",
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Print the task's id and leave it running.")] = False,
    url: UrlOption = "",
) -> None:
    """Run an action and show its stream. Ctrl-C cancels the task and waits for the receipt; a second one leaves."""
    if local and detach:
        raise typer.BadParameter("a local run ends with this process", param_hint="--detach")
    if local:
        from apexstream.cli.local import run_local

        raise typer.Exit(run_local(plugin, action, param, output))
    from apexstream.cli.run import run

    raise typer.Exit(run(plugin, action, param, tier=tier, output=output, detach=detach, url=url))


@app.command("tail")
def tail_command(
    what: Annotated[
        str, typer.Argument(metavar="STREAM|TOPIC", help="A stream's id, or a topic's name for its raw records.")
    ],
    start: Annotated[
        str, typer.Option("--from", metavar="start|end|N", help="Where to begin: seq N, or offset N.")
    ] = "start",
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Go on with what comes later.")] = True,
    output: OutputOption = "text",
    url: UrlOption = "",
) -> None:
    """Show a stream, or every record of a topic as JSON lines."""
    from apexstream.cli.tail import tail

    raise typer.Exit(tail(what, start=start, follow=follow, output=output, url=url))


@app.command("tasks")
def tasks_command(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many at most.")] = 20,
    output: OutputOption = "text",
    url: UrlOption = "",
) -> None:
    """List the newest tasks."""
    from apexstream.cli.tasks import list_tasks

    raise typer.Exit(list_tasks(limit, output, url))


@app.command("cancel")
def cancel_command(
    task: TaskArgument,
    output: OutputOption = "text",
    url: UrlOption = "",
) -> None:
    """Cancel a task."""
    from apexstream.cli.tasks import cancel

    raise typer.Exit(cancel(task, output, url))


@app.command("pause")
def pause_command(task: TaskArgument, output: OutputOption = "text", url: UrlOption = "") -> None:
    """Hold a running task at its next yield."""
    from apexstream.cli.tasks import ask

    raise typer.Exit(ask("pause", task, output, url))


@app.command("resume")
def resume_command(task: TaskArgument, output: OutputOption = "text", url: UrlOption = "") -> None:
    """Let a paused task go on."""
    from apexstream.cli.tasks import ask

    raise typer.Exit(ask("resume", task, output, url))


@app.command("forget")
def forget_command(
    stream: Annotated[str, typer.Argument(metavar="STREAM", help="The stream's id.")],
    output: OutputOption = "text",
    url: UrlOption = "",
) -> None:
    """Erase the stream of a task that has ended."""
    from apexstream.cli.tasks import ask

    raise typer.Exit(ask("forget", stream, output, url))


@app.command("queue")
def queue_command(output: OutputOption = "text", url: UrlOption = "") -> None:
    """Show what waits in each tier and how long at most, what runners have in hand, and what cannot start and why."""
    from apexstream.cli.queue import show_queue

    raise typer.Exit(show_queue(output, url))


@app.command("why")
def why_command(task: TaskArgument, output: OutputOption = "text", url: UrlOption = "") -> None:
    """Say why a task waits, or why it waited."""
    from apexstream.cli.queue import show_why

    raise typer.Exit(show_why(task, output, url))


@app.command("reschedule")
def reschedule_command(
    task: TaskArgument,
    *,
    tier: Annotated[str | None, typer.Option("--tier", help="Its new tier.", show_default=False)] = None,
    in_s: Annotated[
        float | None, typer.Option("--in", metavar="SECONDS", min=0, help="Not to start before so long from now.")
    ] = None,
    output: OutputOption = "text",
    url: UrlOption = "",
) -> None:
    """Move a waiting task to another tier or time."""
    from apexstream.cli.queue import reschedule

    if tier is None and in_s is None:
        raise typer.BadParameter("say what is to change: --tier or --in", param_hint="TASK")
    raise typer.Exit(reschedule(task, tier, in_s, output, url))


@letters_app.command("list")
def letters_list(output: OutputOption = "text", url: UrlOption = "") -> None:
    """List dead letters, newest first."""
    from apexstream.cli.letters import list_letters

    raise typer.Exit(list_letters(output, url))


@letters_app.command("show")
def letters_show(task: TaskArgument, url: UrlOption = "") -> None:
    """Show all of one dead letter, as JSON."""
    from apexstream.cli.letters import show_letter

    raise typer.Exit(show_letter(task, url))


@letters_app.command("retry")
def letters_retry(task: TaskArgument, output: OutputOption = "text", url: UrlOption = "") -> None:
    """Send a dead letter again, as a new task, and print the new task's id."""
    from apexstream.cli.letters import retry_letter

    raise typer.Exit(retry_letter(task, output, url))


@topics_app.command("apply")
def topics_apply(
    *,
    output: OutputOption = "text",
    force: ForceOption = False,
    grants: Annotated[
        bool, typer.Option("--grants", help="Then allow each service what `topics grants` lists.")
    ] = False,
) -> None:
    """Create missing topics and settle their settings."""
    from apexstream.cli.topics import apply_topics

    raise typer.Exit(apply_topics(output, force=force, allow_services=grants))


@topics_app.command("diff")
def topics_diff(*, output: OutputOption = "text", force: ForceOption = False) -> None:
    """Show what `topics apply` would change; status 1 if there is anything."""
    from apexstream.cli.topics import diff_topics

    raise typer.Exit(diff_topics(output, force=force))


@topics_app.command("grants")
def topics_grants(output: OutputOption = "text") -> None:
    """List what each service must be allowed on the cluster, as a user of its own name; works without Kafka."""
    from apexstream.cli.topics import list_grants

    raise typer.Exit(list_grants(output))


@topics_app.command("list")
def topics_list(output: OutputOption = "text") -> None:
    """List the topics that are declared; works without Kafka."""
    from apexstream.cli.topics import list_topics

    raise typer.Exit(list_topics(output))


@plugins_app.command("list")
def plugins_list(output: OutputOption = "text") -> None:
    """List installed plugins, their actions, and what is wrong with the broken ones; works without Kafka."""
    from apexstream.cli.plugins import list_plugins

    raise typer.Exit(list_plugins(output))


@app.command("doctor")
def doctor_command(output: OutputOption = "text", url: UrlOption = "") -> None:
    """Check this machine and what runs on it; status 1 if something fails."""
    from apexstream.cli.doctor import doctor

    raise typer.Exit(doctor(output, url))


@app.command("token")
def token_command(
    *,
    subject: Annotated[str, typer.Option("--subject", help="Whom the token is for.")] = "developer",
    tenant: Annotated[str, typer.Option("--tenant", help="Whose tasks and streams they are.")] = "default",
    scope: Annotated[
        list[str],
        typer.Option(
            "--scope", metavar="VERB[:NAME]", help="What it allows, such as read:reports-*. Repeatable; default: all."
        ),
    ] = [],  # noqa: B006 - typer copies it
    hours: Annotated[float, typer.Option("--hours", min=0.001, max=24.0, help="How long it is valid.")] = 8.0,
    new_key: Annotated[
        bool, typer.Option("--new-key", help="Make a new signing key first; tokens of the old one stay valid.")
    ] = False,
) -> None:
    """Print a token for development, signed with a key of this machine that is made if there is none."""
    from apexstream.cli.token import make_token

    raise typer.Exit(make_token(subject=subject, tenant=tenant, scopes=scope, hours=hours, new_key=new_key))


FilesOption = Annotated[Path, typer.Option("--files", help="Folder of the dashboards' JSON files.")]
FolderOption = Annotated[str, typer.Option("--folder", help="Grafana's folder for them, made if there is none.")]
SourceOption = Annotated[str, typer.Option("--source", help="Name of the Prometheus data source at Grafana.")]


@dashboards_app.command("push")
def dashboards_push(
    *, files: FilesOption = Path("dashboards"), folder: FolderOption = "ApexStream", source: SourceOption = "Prometheus"
) -> None:
    """Make Grafana's dashboards what the files say."""
    from apexstream.cli.dashboards import push_dashboards

    raise typer.Exit(push_dashboards(files, folder, source))


@dashboards_app.command("diff")
def dashboards_diff(
    *, files: FilesOption = Path("dashboards"), folder: FolderOption = "ApexStream", source: SourceOption = "Prometheus"
) -> None:
    """Show how Grafana's dashboards differ from the files; status 1 if they do."""
    from apexstream.cli.dashboards import diff_dashboards

    raise typer.Exit(diff_dashboards(files, folder, source))


@app.command("mcp")
def mcp_command(url: UrlOption = "") -> None:
    """Serve a gateway's actions as tools of the Model Context Protocol, over standard input and output."""
    from apexstream.cli.mcp import serve_mcp

    raise typer.Exit(serve_mcp(url))


@app.command("settings")
def settings_command(output: OutputOption = "text") -> None:
    """List every setting: its environment variable, its value now, what it means."""
    from apexstream.cli.settings import list_settings

    raise typer.Exit(list_settings(output))


@app.command("metrics")
def metrics_command(
    output: Annotated[
        Literal["text", "json", "markdown"], typer.Option("-o", "--output", help="text, json, or markdown.")
    ] = "text",
) -> None:
    """List every metric: its name, kind, unit, labels, what it means."""
    from apexstream.cli.metrics import list_metrics

    raise typer.Exit(list_metrics(output))


@app.command("version")
def version_command() -> None:
    """Show the version."""
    show_version()


def show_version() -> None:
    """Write the version, alone, to standard output."""
    from apexstream import __version__

    typer.echo(__version__)
