"""Data sets, images, annotations and augmentation: what enters, and what is refused."""
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as T

from s21k.core.categories import CategoryMap
from s21k.core.errors import InputError
from s21k.core.packed import PackedStrings
from s21k.core.structures import Sample, Target
from s21k.data.augment_stage1 import TrainAugment, ValidateResize, erase
from s21k.data.augment_stage2 import JitterParams, LargeScaleJitter, ResizeShortestEdge, flip_target
from s21k.data.classification import ClassificationData
from s21k.data.detection import DetectionData
from s21k.data.loaders import collate
from s21k.data.mixup import Mixup
from s21k.files.annotations import load_annotations
from s21k.files.images import image_size, normalize, read_image, resize, to_tensor


def gradient(w, h):
    """An image whose red grows with x and green with y."""
    x, y = np.meshgrid(np.linspace(0, 255, w), np.linspace(0, 255, h))
    return Image.fromarray(np.stack([x, y, np.full_like(x, 128)], -1).astype(np.uint8))


# --- images ---

def test_every_mode_becomes_rgb(tmp_path):
    picture = gradient(20, 10)
    for name, image in {"rgb.png": picture, "grey.png": picture.convert("L"), "palette.png": picture.convert("P"),
                        "cmyk.jpg": picture.convert("CMYK"), "bit.png": picture.convert("1"),
                        "alpha.png": picture.convert("RGBA"),
                        "deep.png": Image.fromarray((np.arange(200).reshape(10, 20) * 300).astype(np.uint16))}.items():
        image.save(tmp_path / name)
        read = read_image(tmp_path / name)
        assert read.mode == "RGB" and read.size == (20, 10) and image_size(tmp_path / name) == (10, 20), name
    deep = np.asarray(read_image(tmp_path / "deep.png"))
    assert deep.max() == 199 * 300 >> 8 and deep[0, 1, 0] == 300 >> 8                # scaled, not clipped


def test_transparent_pixels_are_shown_on_grey(tmp_path):
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    image.save(tmp_path / "a.png")
    assert np.asarray(read_image(tmp_path / "a.png")).tolist() == [[[128, 128, 128]] * 4] * 4


def test_exif_rotation_is_applied_and_known_to_the_header(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6                                                          # rotate by 90 degrees to show
    gradient(20, 10).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").size == (10, 20) and image_size(tmp_path / "a.jpg") == (20, 10)
    assert read_image(tmp_path / "a.jpg", expected=(10, 20)).size == (20, 10)  # its boxes were drawn on the stored rows


def test_no_picture_a_cut_one_and_a_wrong_size_are_refused(tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty.jpg").write_bytes(b"")
    gradient(100, 80).save(tmp_path / "good.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "good.jpg").read_bytes()[:600])
    for name in ("text.jpg", "empty.jpg", "cut.jpg", "missing.jpg"):
        with pytest.raises(InputError, match=name):
            read_image(tmp_path / name)
    with pytest.raises(InputError, match="its annotation says"):
        read_image(tmp_path / "good.jpg", expected=(80, 90))


def test_damaged_exif_is_no_orientation_and_a_cut_png_is_refused(tmp_path):
    text = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x04\0\0\0abc\0\0\0\0\0"       # a text where a number belongs
    gradient(20, 10).save(tmp_path / "text.jpg", exif=text)
    gradient(20, 10).save(tmp_path / "bad.png", exif=b"Exif\x00\x00nonsense")
    for name in ("text.jpg", "bad.png"):
        assert read_image(tmp_path / name).size == (20, 10) and image_size(tmp_path / name) == (10, 20)
    gradient(300, 200).save(tmp_path / "good.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:500])
    with pytest.raises(InputError, match="cut.png"):
        read_image(tmp_path / "cut.png")


def test_a_picture_of_absurd_size_is_refused_before_it_is_decoded(tmp_path):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    with pytest.raises(InputError, match="bomb.png"):
        read_image(tmp_path / "bomb.png")


def test_cheap_decoding_gives_the_same_picture_smaller(tmp_path):
    gradient(400, 320).save(tmp_path / "a.jpg", quality=95)
    small, full = read_image(tmp_path / "a.jpg", at_least=80), read_image(tmp_path / "a.jpg")
    assert small.size == (100, 80)
    assert np.abs(np.asarray(full.resize((100, 80), Image.Resampling.BOX)).astype(int) - np.asarray(small)).mean() < 2


def test_normalize_is_the_usual_one_and_padding_is_zero():
    """G23."""
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    out = normalize(images, [(8, 8), (5, 6)])
    mean, deviation = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
    torch.testing.assert_close(out[0], (images[0] / 255 - mean) / deviation, rtol=1e-5, atol=1e-5)
    assert (out[1, :, 5:] == 0).all() and (out[1, :, :, 6:] == 0).all() and (out[1, :, :5, :6] != 0).any()


# --- annotations and categories ---

def annotations(**changes):
    content = {"images": [{"id": 7, "file_name": "b.jpg", "height": 50, "width": 100},
                          {"id": 3, "file_name": "a.jpg", "height": 40, "width": 60}],
               "categories": [{"id": 9, "name": "cat"}, {"id": 2, "name": "dog", "wnid": "n02084071"}],
               "annotations": [{"id": 1, "image_id": 7, "category_id": 2, "bbox": [10, 5, 20, 30], "area": 600},
                               {"id": 2, "image_id": 3, "category_id": 9, "bbox": [50, 10, 20, 20], "area": 400},
                               {"id": 3, "image_id": 3, "category_id": 2, "bbox": [0, 0, 9, 9], "area": 81,
                                "iscrowd": 1},
                               {"id": 4, "image_id": 3, "category_id": 2, "bbox": [60, 3, 5, 5], "area": 25},
                               {"id": 5, "image_id": 99, "category_id": 2, "bbox": [0, 0, 5, 5], "area": 25}]}
    return content | changes


def write(tmp_path, content):
    (tmp_path / "a.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return tmp_path / "a.json"


def test_annotations_are_in_ascending_ids_and_unlisted_ones_are_dropped(tmp_path):
    """E1, E3."""
    table = load_annotations(write(tmp_path, annotations()))
    assert (table.image_ids.tolist() == [3, 7] and table.category_ids.tolist() == [2, 9]
            and table.category_keys() == ["n02084071", "cat"])
    assert [table.file_names[i] for i in range(2)] == ["a.jpg", "b.jpg"] and len(table.boxes) == 4
    assert table.image_index.tolist() == [1, 0, 0, 0] and table.category_index.tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize("content, says", [
    ("{", "cut off"), ("[]", "expected an object"), (annotations(images=None), "'images' is no list"),
    (annotations(annotations=[{"id": 1, "image_id": 7, "category_id": 2, "bbox": [1, 2, 3]}]),
     r"annotations\[0\] has bbox"),
    (annotations(annotations=[{"id": 1, "image_id": 7, "category_id": 2, "bbox": [1, 2, 3, float("nan")]}]),
     "not finite"),
    (annotations(annotations=[{"id": 1, "image_id": "7", "category_id": 2, "bbox": [1, 2, 3, 4]}]), "image_id '7'"),
    (annotations(annotations=[{"id": 1, "image_id": 7, "category_id": 2, "bbox": [1, 2, 3, 4]}] * 2),
     "id 1 appears twice"),
    (annotations(images=[{"id": 7, "file_name": "a", "height": 0, "width": 4}]), "image 7 is 4 x 0 pixels")])
def test_a_malformed_annotation_file_is_refused_naming_the_entry(tmp_path, content, says):
    with pytest.raises(InputError, match=says):
        load_annotations(write(tmp_path, content))


def test_detection_data_clips_boxes_and_leaves_out_crowds_and_what_lies_outside(tmp_path):
    path = write(tmp_path, annotations())
    gradient(60, 40).save(tmp_path / "a.jpg")
    gradient(100, 50).save(tmp_path / "b.jpg")
    data = DetectionData(path, tmp_path)
    assert data.left_out == 3 and len(data) == 2  # one of them on an image that is not listed
    image, target = data.read(0)
    assert image.size == (60, 40) and target.boxes.tolist() == [[50, 10, 60, 30]] and target.labels.tolist() == [1]
    assert data.read(1)[1].boxes.tolist() == [[10, 5, 30, 35]]


def test_categories_survive_a_round_trip_and_bad_ones_are_refused(tmp_path):
    path = tmp_path / "c.json"
    categories = CategoryMap(["cat", "dog"], [None, "n1"], ["base", "novel"], torch.tensor([0, -1]),
                             torch.tensor([1, 0]))
    categories.save(path)
    again = CategoryMap.load(path)
    assert again.names == ["cat", "dog"] and again.keys() == ["cat", "n1"] and again.det_index.tolist() == [0, -1]
    for content, says in (("[]", "non-empty"), ('[{"name": 3}]', "expected an object with a name"),
                          ('[{"name": "a"}]', "no classifier knows it"),
                          ('[{"name": "a", "det": 0}, {"name": "b", "det": 0}]', "belongs to an earlier"),
                          ('[{"name": "a", "det": -1}]', "a row >= 0"),
                          ("nonsense", "cannot be read")):
        path.write_text(content)
        with pytest.raises(InputError, match=says):
            CategoryMap.load(path)


def test_packed_strings_hold_any_text():
    strings = ["", "a/b.jpg", "grün/猫.png"]
    packed = PackedStrings(strings)
    assert [packed[i] for i in range(3)] == strings and len(packed) == 3


# --- classification data ---

def test_a_folder_per_class_and_a_list_say_the_same(tmp_path):
    for name in ("dog", "cat"):
        (tmp_path / name).mkdir()
        for i in range(2):
            gradient(8 + i, 8).save(tmp_path / name / f"{i}.png")
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    folder = ClassificationData(tmp_path)
    (tmp_path / "list.tsv").write_text("cat/0.png\tcat\ncat/1.png\tcat\ndog/0.png\tdog\n\ndog/1.png\tdog\n")
    listed = ClassificationData(tmp_path / "list.tsv")
    assert (folder.class_names == listed.class_names == ["cat", "dog"]
            and folder.labels.tolist() == listed.labels.tolist() == [0, 0, 1, 1])
    assert listed.read(3)[0].size == folder.read(3)[0].size == (9, 8)
    assert ClassificationData(tmp_path / "list.tsv", ["dog", "bird", "cat"]).labels.tolist() == [2, 2, 0, 0]


@pytest.mark.parametrize("line, says", [("a.png", "expected path<TAB>class"), (
    "../a.png\tcat", "leaves the list's folder"), ("", "no images"), ("a.png\tcow", "'cow' is none")])
def test_a_bad_list_line_is_named(tmp_path, line, says):
    (tmp_path / "list.tsv").write_text(line + "\n")
    with pytest.raises(InputError, match=says):
        ClassificationData(tmp_path / "list.tsv", ["cat"])


# --- augmentation ---

def test_large_scale_jitter_moves_boxes_with_the_picture():
    """P54-P56, G23: the image would just fit 96 x 96, times s; at each box corner it still has the colour it had there
    (red is x, green is y)."""
    image = gradient(100, 80)
    jitter = LargeScaleJitter(96, (0.3, 2.0))
    flips = 0
    for seed in range(40):
        torch.manual_seed(seed)
        tensor, target, scale = jitter(image, (80, 100), Target(torch.tensor([[20.0, 10.0, 60.0, 50.0]]),
                                                                torch.tensor([3])), jitter.draw())
        h, w = tensor.shape[1:]
        assert (max(h, w) <= 96 and scale[0] < 2 * 96 / 100 + 0.02
                and ((target.boxes >= 0) & (target.boxes <= torch.tensor([w, h, w, h]))).all())
        flipped = tensor[0, :, 0].float().mean() > tensor[0, :, -1].float().mean()
        flips += int(flipped)
        for x1, _y1, x2, _y2 in target.boxes.tolist():
            left, right = (w - x2, w - x1) if flipped else (x1, x2)
            row = tensor[0, h // 2].float().flip(0) if flipped else tensor[0, h // 2].float()
            if left > 2 and right < w - 2:                                    # not cut
                assert abs(row[int(left)] - 20 * 255 / 100) < 8 and abs(row[int(right)] - 60 * 255 / 100) < 8
                assert right - left == pytest.approx(40 * scale[0], rel=1e-4)
    assert 8 < flips < 32


def test_jitter_scales_cover_their_range_evenly():
    """P55: s ~ U(0.1, 2.0)."""
    torch.manual_seed(0)
    nothing = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    jitter = LargeScaleJitter(100, (0.1, 2.0))
    scales = sorted(jitter(gradient(50, 50), (50, 50), nothing, jitter.draw())[2][0] / 2 for _ in range(400))
    assert scales[0] < 0.15 and scales[-1] > 1.95 and abs(np.median(scales) - 1.05) < 0.1


@pytest.mark.parametrize("size", [(37, 81), (200, 150), (480, 640)])
def test_resizing_equals_pillows(size):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (120, 160, 3), dtype=np.uint8))
    theirs = np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(resize(image, size).permute(1, 2, 0).numpy().astype(int) - theirs).max() <= 1
    theirs = np.asarray(image.crop((20, 10, 100, 90)).resize(size[::-1], Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(resize(image, size, (20, 10, 100, 90)).permute(1, 2, 0).numpy().astype(int) - theirs).max() <= 1
    assert np.abs(resize(image, size, (20, 10, 100, 90),
                         mirror=True).permute(1, 2, 0).numpy().astype(int)[:, ::-1] - theirs).max() <= 1


def test_images_stay_pixel_by_pixel_from_the_decoder_to_the_batch():
    """No plane by plane in between, which costs a stage-II image more than its resize."""
    image = gradient(64, 48)
    for tensor in (to_tensor(image), resize(image, (30, 40)), resize(image, (30, 40), (4, 4, 40, 40), mirror=True)):
        assert tensor.permute(1, 2, 0).is_contiguous()


def test_decoding_fewer_pixels_changes_the_jittered_picture_hardly(tmp_path):
    """A large JPEG under a small scale: decoded at a quarter, the same image and the same boxes."""
    gradient(800, 600).save(tmp_path / "a.jpg", quality=95)
    jitter, target = LargeScaleJitter(256, (0.1, 2.0)), Target(torch.tensor([[100.0, 60.0, 500.0, 300.0]]),
                                                               torch.tensor([0]))
    draw = JitterParams(0.5, 0.3, 0.7, True)
    cheap = read_image(tmp_path / "a.jpg", jitter.needed_side(draw))
    assert cheap.size == (200, 150)
    (a, a_target, a_scale), (b, b_target, b_scale) = (jitter(image, (600, 800), target, draw)
                                                      for image in (cheap, read_image(tmp_path / "a.jpg")))
    assert a.shape == b.shape == (3, 96, 128) and torch.equal(a_target.boxes, b_target.boxes) and a_scale == b_scale
    assert (a.float() - b.float()).abs().mean() < 2


def test_boxes_below_a_pixel_are_dropped_and_flips_are_their_own_inverse():
    """P56, G23."""
    target = Target(torch.tensor([[10.0, 10.0, 10.8, 30.0], [5.0, 5.0, 20.0, 25.0]]), torch.tensor([0, 1]))
    _, kept, _ = ResizeShortestEdge(50, 100)(gradient(50, 50), (50, 50), target)
    assert kept.labels.tolist() == [1]
    torch.testing.assert_close(flip_target(flip_target(target, 50), 50).boxes, target.boxes)
    assert flip_target(target, 50).boxes[1].tolist() == [30, 5, 45, 25]


def test_shortest_edge_is_met_unless_the_longest_would_pass_its_limit():
    """P12, G25."""
    nothing = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    resize = ResizeShortestEdge(800, 1333)
    assert resize(gradient(64, 48), (480, 640), nothing)[0].shape == (3, 800, 1067)
    assert resize(gradient(100, 25), (250, 1000), nothing)[0].shape == (3, 333, 1333)


def test_collate_pads_right_and_below():
    samples = [Sample(torch.full((3, h, w), 9, dtype=torch.uint8), Target(torch.zeros(0, 4), torch.zeros(0)), i,
                      (1.0, 1.0), i) for i, (h, w) in enumerate([(10, 40), (33, 5)])]
    batch = collate(samples)
    assert batch.images.shape == (2, 3, 64, 64) and batch.sizes == [(10, 40), (33, 5)]
    assert batch.images[0].sum() == 9 * 3 * 400 and (batch.images[0, :, :10, :40] == 9).all()


@pytest.mark.parametrize("jitter", [0.0, 0.4])
def test_stage_one_crops_mirrors_and_recolours_as_torchvision_with_pillow(jitter):
    """P11, P51, G24: the same chance makes the same choices; the numbers are Pillow's within rounding."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((150, 180), Image.Resampling.BICUBIC)
    peer = T.Compose([T.RandomResizedCrop(64, (0.1, 1.0), interpolation=T.InterpolationMode.BICUBIC),
                      T.RandomHorizontalFlip(), T.ColorJitter(jitter, jitter, jitter)])
    ours = TrainAugment(64, (0.1, 1.0), jitter, False, 0.0)
    for seed in range(30):
        found = []
        for augment in (ours, lambda image: to_tensor(peer(image))):
            torch.manual_seed(seed)
            found.append(augment(image).float())
        assert (found[0] - found[1]).abs().mean() < 0.5 and (found[0] - found[1]).abs().quantile(0.999) <= 3, seed


def test_stage_one_augmentation_gives_the_size_asked_for_and_erases_a_part():
    """P11, P51, P52."""
    assert TrainAugment(64, (0.2, 1.0), 0.4, True, 1.0)(gradient(90, 70)).shape == (3, 64, 64)
    assert ValidateResize(56, 0.875)(gradient(90, 70)).shape == (3, 56, 56)
    plain = torch.zeros(3, 64, 64, dtype=torch.uint8)
    shares = [(erase(plain) > 0).any(0).float().mean().item() for _ in range(100)]
    assert min(shares) > 0.01 and max(shares) < 0.36


def test_mixup_and_cutmix_mix_labels_by_the_share_of_pixels():
    """P52: each image is one colour, so that its mean tells the share."""
    np.random.seed(0)
    images = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 32, 32)
    for mixer in (Mixup(2, mixup=0.8), Mixup(2, cutmix=1.0)):
        for _ in range(20):
            mixed, soft = mixer(images, torch.tensor([0, 1]))
            torch.testing.assert_close(mixed.mean(dim=(1, 2, 3)), soft[:, 1], rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(soft.sum(1), torch.ones(2))


def test_label_smoothing_without_mixing():
    """G24: 0.1 over 5 classes leaves 0.92 for the true one."""
    images = torch.rand(1, 3, 4, 4)
    mixed, soft = Mixup(5, smoothing=0.1)(images, torch.tensor([2]))
    assert torch.equal(mixed, images)
    torch.testing.assert_close(soft, torch.tensor([[0.02, 0.02, 0.92, 0.02, 0.02]]))
