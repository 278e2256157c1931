"""``python -m tests.docs.page_pictures`` draws the server's page anew for docs/deploy.md; needs Chromium."""

import tempfile
from pathlib import Path

from PIL import Image

from tests.browser.chromium import opened
from tests.browser.test_page import done, drawn, drop, pixels
from tests.deploy.serving import serving
from zsad import load_model
from zsad.deploy.live import Live
from zsad.synthetic import generate

IMAGES = Path(__file__).parents[2] / "docs" / "images"
DEFECTS = ("dent", "", "", "stain", "", "scratch", "", "")


def main() -> None:
    """Write the pictures: on a desk, under a card, and on a telephone."""
    model = load_model("clip", backbone="zsad-mini", device="cpu")
    good = [Image.fromarray(generate("cork", "", seed=seed, size=192).image) for seed in range(100, 140)]
    model.use_calibration(model.calibrate(good, "cork", alpha=0.05))
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(Live(model, ["cork"])) as server,
        opened(server.address) as browser,
    ):
        photos = [Path(folder, f"cork_{number}.png") for number in range(len(DEFECTS))]
        for number, (photo, defect) in enumerate(zip(photos, DEFECTS, strict=True)):
            Image.fromarray(generate("cork", defect, seed=number, size=192).image).resize((480, 360)).save(photo)
        browser.set_window_size(1100, 900)
        drop(browser, *photos)
        done(browser, len(photos))
        pixels(browser)
        drawn(browser)
        browser.save_screenshot(str(IMAGES / "server_page.png"))
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 780, "deviceScaleFactor": 1, "mobile": True}
        )
        drawn(browser)
        browser.save_screenshot(str(IMAGES / "server_page_phone.png"))


if __name__ == "__main__":
    main()
