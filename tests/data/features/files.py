"""Files of features in every form."""

import json

import numpy as np
import safetensors.torch
import torch

IDS = ("a/1.jpg", "b/2.jpg", "3", "ü.png")


def numbers(shape=(4, 6), dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def npz(path, features, ids=IDS, save=np.savez):
    save(path, features=features, ids=np.array(ids))
    return path


def npy(path, features, ids=IDS):
    np.save(path, features)
    path.with_suffix(".ids.txt").write_text("".join(f"{one}\n" for one in ids), encoding="utf-8")
    return path


def tensors(path, features, ids=IDS):
    content = features if isinstance(features, torch.Tensor) else torch.from_numpy(features.copy())
    safetensors.torch.save_file({"features": content, "other": torch.ones(3)}, path, {"ids": json.dumps(list(ids))})
    return path


FORMS = {".npz": npz, ".npy": npy, ".safetensors": tensors}
