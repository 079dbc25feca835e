"""edgenas key ..."""

import click

from edgenas.cli.printing import each, json_option, print_json, print_table, refuse_unreadable, stdout


@click.group()
def key() -> None:
    """Keys that sign bundles: create, list, trust, distrust.

    \b
    Example: edgenas key create
    """


@key.command()
@click.argument("name", default="default")
@json_option
def create(name: str, as_json: bool) -> None:
    """Make a pair of keys in your own configuration (~/.config/edgenas/keys).

    The one called 'default' signs every bundle that is trained from now on.

    \b
    Example: edgenas key create
    """
    from edgenas.deploy.keys import create_key

    made = create_key(name)
    if as_json:
        print_json({"key": made.id, "name": name, "public": made.line})
    else:
        stdout.print(f"{made.id}: {made.line}\nNext: edgenas key trust DEVICE", markup=False)


@key.command("list")
@click.argument("device", required=False)
@json_option
def list_(device: str | None, as_json: bool) -> None:
    """List your own keys, or those that DEVICE trusts.

    \b
    Example: edgenas key list pi
    """
    from edgenas.deploy.keys import PublicKey, key_names, trusted_keys
    from edgenas.device import Device

    found, bad = each(key_names(), PublicKey.load)
    own = {public.id: public.name for public in found}
    ids = list(own) if device is None else trusted_keys(Device.load(device))
    if as_json:
        print_json({"device": device, "keys": [{"key": one, "name": own.get(one)} for one in ids], "unreadable": bad})
    elif ids:
        print_table(("key", "yours, called"), [(one, own.get(one, "-")) for one in ids])
    elif device is None and not bad:
        stdout.print("There is no key yet. To make one: edgenas key create", markup=False)
    elif device is not None:
        stdout.print(f"{device} trusts no key: it takes what comes whole. See: edgenas key trust", markup=False)
    refuse_unreadable(bad)


@key.command()
@click.argument("device")
@click.option("--key", "name", default="default", show_default=True, help="One of your keys, or a .pub file.")
@json_option
def trust(device: str, name: str, as_json: bool) -> None:
    """Have DEVICE take only bundles that this key, or another one that it trusts, has signed.

    \b
    Example: edgenas key trust pi
    """
    from edgenas.deploy.keys import PublicKey, trust_key
    from edgenas.device import Device

    public = PublicKey.load(name)
    trusted = trust_key(Device.load(device), public)
    if as_json:
        print_json({"device": device, "key": public.id, "trusted": trusted})
    else:
        stdout.print(f"{device} takes only what is signed by: {', '.join(trusted)}.", markup=False)


@key.command()
@click.argument("device")
@click.argument("name", metavar="ID")
@click.option("--last", is_flag=True, help="Even the only one: DEVICE takes whatever comes whole from then on.")
@json_option
def distrust(device: str, name: str, last: bool, as_json: bool) -> None:
    """Have DEVICE trust a key no more; ID is what `edgenas key list DEVICE` shows.

    \b
    Example: edgenas key distrust pi 0123456789abcdef
    """
    from edgenas.deploy.keys import distrust_key
    from edgenas.device import Device

    trusted = distrust_key(Device.load(device), name, last)
    if as_json:
        print_json({"device": device, "key": name, "trusted": trusted})
    else:
        rest = f"only what is signed by: {', '.join(trusted)}" if trusted else "what comes whole: it trusts no key"
        stdout.print(f"{device} takes {rest}.", markup=False)
