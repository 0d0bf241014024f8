# /// script
# requires-python = ">=3.11"
# dependencies = ["pillow>=11"]
#
# [tool.faas]
# name = "thumbnail"
# memory = "256MB"
# timeout = "15s"
# env = { SIZE = "128" }
#
# [tool.faas.http]
# methods = ["POST"]
# ///
"""Image in, thumbnail out: POST a picture, get one that fits a square of ``?size=`` pixels (default: env SIZE).

Also as a direct call whose content type is not JSON: then the event is the bytes of the picture, and so is the result.
Transparency stays (PNG), everything else becomes JPEG; a photo's orientation is applied, its metadata is left out.
"""

import base64
import io
import os

from PIL import Image, ImageOps, UnidentifiedImageError

SIZE_MAX = 2048
PIXELS_MAX = 24_000_000  # a small file may unpack to gigabytes: refuse that before it happens


class BadRequest(Exception):
    """Something the caller can mend: its status code and what to do."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


def handler(event, context):
    if isinstance(event, bytes):
        return thumbnail(event, size_from(None))[0]
    try:
        query = event.get("queryStringParameters") or {}
        picture, media_type = thumbnail(body_of(event), size_from(query.get("size")))
    except BadRequest as error:
        return {"statusCode": error.status, "headers": {"content-type": "text/plain"}, "body": f"{error}\n"}
    return {
        "statusCode": 200,
        "headers": {"content-type": media_type, "cache-control": "max-age=86400"},
        "isBase64Encoded": True,
        "body": base64.b64encode(picture).decode(),
    }


def thumbnail(data, size):
    """The picture within ``size`` x ``size`` pixels and its media type; never larger than it was."""
    try:
        with Image.open(io.BytesIO(data)) as source:
            if source.width * source.height > PIXELS_MAX:
                raise BadRequest(413, f"the picture has more than {PIXELS_MAX:,} pixels")
            source.draft("RGB", (size * 2, size * 2))  # lets JPEG decode at a fraction of its size
            image = source.convert("RGBA" if source.has_transparency_data else "RGB")
        image.thumbnail((size, size))
        image = ImageOps.exif_transpose(image)
    except UnidentifiedImageError:
        raise BadRequest(415, "this is not an image I can read; send JPEG, PNG, WebP or GIF") from None
    except Image.DecompressionBombError:
        raise BadRequest(413, "the picture has far too many pixels") from None
    except (OSError, ValueError, SyntaxError) as error:
        raise BadRequest(422, f"the image is damaged: {error}") from None
    out = io.BytesIO()
    if image.mode == "RGBA":
        image.save(out, "PNG", optimize=True)
        return out.getvalue(), "image/png"
    image.save(out, "JPEG", quality=85)
    return out.getvalue(), "image/jpeg"


def size_from(text):
    text = text or os.environ.get("SIZE", "128")
    if not text.isdecimal() or not 1 <= int(text) <= SIZE_MAX:
        raise BadRequest(400, f"size must be from 1 to {SIZE_MAX} pixels")
    return int(text)


def body_of(event):
    body = event.get("body") or ""
    data = base64.b64decode(body) if event.get("isBase64Encoded") else body.encode()
    if not data:
        raise BadRequest(400, "send the image as the request's body")
    return data
