"""The main job in a few lines: profile this machine, search, train, ship. Minutes on two cores."""

import edgenas

if __name__ == "__main__":  # worker processes import this file
    device = edgenas.Device.load("local")
    table = edgenas.profile(device, edgenas.MobileSpace("tiny", (28, 28, 1), classes=10), "int8")
    settings = edgenas.Settings(
        study="first", data="fashion-mnist", device="local", table="", space="tiny", input_shape=(28, 28, 1),
        trials=12, limits=edgenas.Limits(max_latency_ms=0.3), fidelity=edgenas.Fidelity(steps=100),
    )  # fmt: skip
    front = edgenas.search(settings, print)
    bundle = edgenas.train("first", front.pick("knee").id)
    print(edgenas.ship(bundle, device, "clothes", table=table))
