"""What is live on a phone: a model that is spoiled hides none of the others (on a board: test_shipping_commands.py)."""

from edgenas.deploy import Bundle, deployed, ship
from tests.deploy.pocket import Pocket


def test_one_of_which_it_cannot_be_told_what_is_live_hides_no_other(pocket: Pocket, bundle: Bundle) -> None:
    for name in ("bad", "good"):
        ship(bundle, pocket.device(), name)
    model = pocket.home / "edgenas" / "models" / "bad"
    (model / "releases").rename(model / "aside")
    (model / "releases").symlink_to("aside")
    bad, good = deployed(pocket.device())
    assert (bad.name, bad.release, good.name, good.release) == ("bad", None, "good", bundle.manifest.release)
    assert bad.wrong is not None and "current is no link to one of its releases" in bad.wrong and good.wrong is None
