"""What a phone needs, and whether it has it: TFLite's benchmark_model, for its processor, where programs may run."""

import contextlib
from collections.abc import Callable

from edgenas.device.device import Device
from edgenas.device.finding import SPACE_KB, Finding, no_space
from edgenas.device.phone import Phone, check_machine, host_tool, open_phone, tool_path, tool_state
from edgenas.errors import DeviceError, EdgeNASError


def setup_phone(device: Device, progress: Callable[[str], object] = print) -> str:
    """Put benchmark_model on a phone and show that it runs there. Quick when it does already.

    Args:
        progress: told each step in a line.

    Returns:
        the version of the runtime: the first 16 hex digits of benchmark_model's SHA-256.

    Raises:
        InputError: there is no benchmark_model at the path that the device's file names.
        DeviceError: unreachable, or benchmark_model is for another processor, or does not run there.
    """
    with contextlib.ExitStack() as stack:
        phone = open_phone(device, stack)
        info = phone.info
        progress(f"{device.name}: {info.cpu}, {info.os}, {info.disk_free_kb / 1000:.0f} MB free")
        path = phone.tool
        if (why := _complaint(phone, path)) is not None:
            raise DeviceError(f"{device.name}: {why}")
        progress(f"{device.name}: benchmark_model {phone.runtime_version()} works.")
        return phone.runtime_version()


def _complaint(phone: Phone, tool: str) -> str | None:
    """Why a benchmark_model that is there is of no use; None where it runs."""
    done = phone.connection.run([tool, "--help"])
    if "--graph" in done.stdout + done.stderr:
        return None
    return (
        f"{phone.device.runtime.benchmark_model} does not run there, or is no benchmark_model: exit code "
        f"{done.returncode}, {(done.stderr.strip() or done.stdout.strip())[-200:] or 'it says nothing'}. It must be "
        f"built for {phone.info.abi}."
    )


def phone_findings(device: Device) -> list[Finding]:
    """Everything that can be said about a phone, the problems among it. It does not raise for what it finds."""
    try:
        with contextlib.ExitStack() as stack:
            phone = open_phone(device, stack)
            info = phone.info
            memory = f"{info.memory_total_kb / 1e6:.1f} GB"
            space = f"{info.disk_free_kb / 1000:.0f} MB free"
            what = f"{device.name}: {info.cpu}, {info.cores} cores, {memory}, {info.os}, {space}"
            found = [Finding("ok", what), _tool(phone)]
            if info.disk_free_kb < SPACE_KB:
                found.append(no_space(info.disk_free_kb))
            if device.runtime.delegate == "nnapi":
                found.append(Finding("warning", "NNAPI is deprecated since Android 15", "prefer xnnpack or gpu"))
            return found
    except EdgeNASError as error:
        return [Finding("problem", str(error))]


def _tool(phone: Phone) -> Finding:
    """Whether benchmark_model is there, the same as on the host, and runs."""
    device, send = phone.device, f"edgenas device setup {phone.device.name}"
    try:
        local, digest = host_tool(device)
        check_machine(device, local, phone.info.abi)
    except EdgeNASError as error:
        return Finding("problem", str(error))
    remote = tool_path(phone.connection, digest)
    there, executable = tool_state(phone.connection, remote)
    if there is None:
        what = f"benchmark_model {digest[:16]} is not there yet; it is sent once, when it is first needed"
        return Finding("warning", what, send)
    if there != digest:
        return Finding("problem", f"{remote} is not the benchmark_model of the host: its SHA-256 is {there}", send)
    if not executable:
        return Finding("problem", f"{remote} may not be executed", send)
    if (why := _complaint(phone, remote)) is not None:
        return Finding("problem", why)
    return Finding("ok", f"benchmark_model {digest[:16]} is there and runs (SHA-256 {digest})")
