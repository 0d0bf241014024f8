# /// script
# requires-python = ">=3.11"
# dependencies = ["pillow>=11"]
#
# [tool.faas]
# name = "image-pipeline"
# memory = "256MB"
# timeout = "30s"
# env = { SIZE = "256" }
# # Say who wants the results: faas deploy image_pipeline.py --on-success https://app.example/hooks/images
#
# [[tool.faas.queue]]
# name = "images"
# batch = 5
# max_concurrency = 2
# ///
"""From the queue ``images`` to a webhook: reads pictures, tells their size and main colour, makes small copies.

A message's body is ``{"id": "...", "image": "base64 of a JPEG, PNG, WebP or GIF"}``. With ``on_success`` set, each
batch's results are posted there, signed, and again until they are taken. A picture that cannot be read fails alone.
"""

import base64
import binascii
import io
import json
import os

from PIL import Image, ImageOps

PIXELS_MAX = 24_000_000  # a small file may unpack to gigabytes: refuse that before it happens


def handler(event, context):
    results, failures = [], []
    for record in event["Records"]:
        try:
            results.append(described(json.loads(record["body"])))
        except (ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
            print(f"picture in message {record['messageId']} refused: {error}")
            failures.append({"itemIdentifier": record["messageId"]})
    return {"batchItemFailures": failures, "images": results}


def described(job):
    if not isinstance(job, dict) or not {"id", "image"} <= job.keys():
        raise ValueError("a job needs an id and an image")
    try:
        data = base64.b64decode(job["image"], validate=True)
    except (TypeError, binascii.Error):
        raise ValueError("the image is not base64") from None
    with Image.open(io.BytesIO(data)) as source:
        if source.width * source.height > PIXELS_MAX:
            raise ValueError(f"the picture has more than {PIXELS_MAX:,} pixels")
        kind, width, height = source.format, source.width, source.height
        small = ImageOps.exif_transpose(source.convert("RGB"))
    red, green, blue = small.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    size = int(os.environ.get("SIZE", "256"))
    small.thumbnail((size, size))
    out = io.BytesIO()
    small.save(out, "JPEG", quality=85)
    return {
        "id": job["id"],
        "format": kind,
        "width": width,
        "height": height,
        "colour": f"#{red:02x}{green:02x}{blue:02x}",
        "thumbnail": base64.b64encode(out.getvalue()).decode(),
    }
