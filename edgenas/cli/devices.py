"""edgenas device ..., edgenas doctor."""

from typing import Any

import click

from edgenas.cli.printing import (
    each,
    json_option,
    print_json,
    print_pairs,
    print_table,
    refuse_unreadable,
    stderr,
    stdout,
)
from edgenas.errors import CheckFailedError, counted

_MARKS = {"ok": ("ok", "green"), "warning": ("!!", "yellow"), "problem": ("XX", "red")}  # (word, colour)


@click.command()
@click.argument("device", required=False)
@json_option
def doctor(device: str | None, as_json: bool) -> None:
    """Name what is wrong with this host, or with DEVICE, one line each with the remedy.

    \b
    Example: edgenas doctor pi
    """
    from edgenas.workflow import examine

    found = examine(device)
    if as_json:
        print_json({"findings": [{"level": f.level, "what": f.what, "remedy": f.remedy} for f in found]})
    else:
        for finding in found:
            word, colour = _MARKS[finding.level]
            stdout.print(word, style=colour, end=" ")
            stdout.print(finding.what + (f" -> {finding.remedy}" if finding.remedy else ""))
    problems = sum(finding.level == "problem" for finding in found)
    if problems:
        raise CheckFailedError(f"{counted(problems, 'problem')} found.")


@click.group()
def device() -> None:
    """Devices: add, list, show, trust, setup, remove.

    \b
    Example: edgenas device add pi ssh://pi@192.168.1.20
    """


@device.command()
@click.argument("name")
@click.argument("url")
@click.option("--identity-file", help="Your private key for it; its path is kept, never the key.")
@click.option("--runtime", type=click.Choice(["ai-edge-litert", "tflite-runtime"]), help="Boards: ai-edge-litert.")
@click.option("--python", help="The interpreter on the device (found by itself otherwise).")
@click.option("--folder", help="Work folder on the device: .edgenas below the home; edgenas on a phone.")
@click.option("--benchmark-model", help="Phones: the path of TFLite's benchmark_model for the phone's ABI.")
@click.option("--delegate", type=click.Choice(["xnnpack", "gpu", "nnapi", "none"]), help="Phones: xnnpack.")
@json_option
def add(
    name: str,
    url: str,
    identity_file: str | None,
    runtime: Any,
    python: str | None,
    folder: str | None,
    benchmark_model: str | None,
    delegate: Any,
    as_json: bool,
) -> None:
    """Write devices/NAME.toml. URL: local:, ssh://user@host:port or adb:SERIAL.

    \b
    Example: edgenas device add pi ssh://pi@192.168.1.20 --identity-file ~/.ssh/id_ed25519
             edgenas device add phone adb:39111FDJH003KD --benchmark-model ~/benchmark_model
    """
    from edgenas.device import Device, Runtime, parse_url
    from edgenas.device import add as write

    phone = parse_url(url).kind == "adb"
    package: Any = runtime or ("benchmark-model" if phone else "ai-edge-litert")
    delegate = delegate or ("xnnpack" if phone else None)
    made = Device(
        name, url, identity_file=identity_file, folder=folder or ("edgenas" if phone else ".edgenas"),
        runtime=Runtime(package, python, benchmark_model=benchmark_model, delegate=delegate),
    )  # fmt: skip
    path = write(made)
    if as_json:
        print_json({"device": name, "file": str(path)})
    else:
        stdout.print(f"{path} written.", markup=False)
        if made.address.kind == "ssh":
            stdout.print(f"Next: edgenas device trust {name}; edgenas device setup {name}", markup=False)
        elif phone:
            stdout.print(f"Next: edgenas device setup {name}", markup=False)


@device.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the devices: yours, and those that came with EdgeNAS.

    \b
    Example: edgenas device list
    """
    from edgenas.device import Device, device_names

    found, bad = each(device_names(), Device.load)
    rows = [(d.name, d.url, d.runtime.package, "pinned" if d.host_key else "-") for d in found]
    if as_json:
        listed = [dict(zip(("name", "url", "runtime", "host_key"), row, strict=True)) for row in rows]
        print_json({"devices": listed, "unreadable": bad})
    else:
        print_table(("name", "url", "runtime", "host key"), rows)
    refuse_unreadable(bad)


@device.command()
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """Show what is written down of NAME.

    \b
    Example: edgenas device show pi
    """
    from edgenas.device import Device, fingerprint

    found = Device.load(name)
    pairs = {
        "name": found.name,
        "url": found.url,
        "host key": fingerprint(found.host_key) if found.host_key else "not pinned",
        "identity file": found.identity_file or "-",
        "runtime": found.runtime.package,
        "python": found.runtime.python or "found by itself",
        "work folder": found.folder,
    }
    if found.address.kind == "adb":
        del pairs["host key"], pairs["identity file"], pairs["python"]
        pairs |= {
            "benchmark model": found.runtime.benchmark_model or "-",
            "delegate": found.runtime.delegate or "xnnpack",
        }
    if as_json:
        print_json({key.replace(" ", "_"): value for key, value in pairs.items()})
    else:
        print_pairs(pairs)


@device.command()
@click.argument("name")
@click.option("--fingerprint", help="SHA256:... that the host key must have; then nothing is asked.")
@json_option
def trust(name: str, fingerprint: str | None, as_json: bool) -> None:
    """Pin the host key of NAME: its fingerprint is shown, and you say whether it is the device's.

    \b
    Example: edgenas device trust pi --fingerprint SHA256:uNiVztksCsDhcc0u9e8BrrJXVGDnLp0
    """
    from edgenas.device import Device
    from edgenas.device import fingerprint as fingerprint_of
    from edgenas.device import trust as pin

    def confirm(shown: str) -> bool:
        return click.confirm(f"{name} shows the host key {shown}. Is that the device's?", err=True)

    pinned = pin(Device.load(name), fingerprint, confirm)
    shown = fingerprint_of(pinned.host_key or "")
    if as_json:
        print_json({"device": name, "fingerprint": shown})
    else:
        stdout.print(f"{name}: host key {shown} pinned.", markup=False)


@device.command()
@click.argument("name")
@click.option("--offline", is_flag=True, help="Send the wheels from this host; the device's network is not used.")
@json_option
def setup(name: str, offline: bool, as_json: bool) -> None:
    """Install the TFLite runtime on NAME, in an environment of its own, and show that it imports.

    On a phone: send benchmark_model, once for its content, and show that it runs.

    \b
    Example: edgenas device setup pi
    """
    from edgenas.device import Device, setup_phone
    from edgenas.device import setup as install

    found = Device.load(name)
    if found.address.kind == "adb":
        tool = setup_phone(found, lambda line: stderr.print(line, markup=False))
        said = {"device": name, "runtime": found.runtime.package, "version": tool, "python": None}
        print_json(said) if as_json else stdout.print(f"{name}: benchmark_model {tool} runs there.", markup=False)
        return
    info = install(found, lambda line: stderr.print(line, markup=False), offline)
    version = info.runtime(found.runtime.package).version
    if as_json:
        print_json({"device": name, "runtime": found.runtime.package, "version": version, "python": info.python})
    else:
        stdout.print(f"{name}: {found.runtime.package} {version} runs on Python {info.python}.", markup=False)


@device.command()
@click.argument("name")
@json_option
def remove(name: str, as_json: bool) -> None:
    """Forget NAME. What lies on the device stays there.

    \b
    Example: edgenas device remove pi
    """
    from edgenas.device import remove as forget

    forget(name)
    if as_json:
        print_json({"removed": name})
    else:
        stdout.print(f"{name} forgotten.", markup=False)
