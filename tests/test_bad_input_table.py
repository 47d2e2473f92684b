"""Bad input of every command and of Python: one line that names the value and what is allowed, and nothing written.

An entry is a command line, or a call, and words that the message must hold.
"""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import dita
from dita import cli, miniature, models
from dita.bench.job import bench
from dita.bench.workloads import workload
from dita.caching.adapters import UnsupportedModelError
from dita.cli.given_methods import say_what_is_not_kept
from dita.compare import compare
from dita.compare_folders import compare_folders
from dita.demo.address import check_address
from dita.demo.request import Limits
from dita.evaluate import evaluate
from dita.judge import judge_images, judge_model
from dita.methods import as_method, from_json, parse
from dita.metrics import catalogue
from dita.metrics.picture_sets import open_pictures
from dita.networks import Networks
from dita.shapes import named_shape
from dita.stores import parse_bytes
from dita.studies import STUDIES
from tests.generation.stand_in import StandIn
from tests.tiny_flux import tiny_pipeline, tiny_transformer

LIMIT = 60  # seconds, on a busy machine too

COMMANDS: dict[str, tuple[str, ...]] = {
    # plan: models
    "plan --model flux-dve --method fora": ("unknown model 'flux-dve'", "did you mean 'flux-dev'?"),
    "plan --model Flux-Dve --method fora": ("unknown model 'Flux-Dve'", "did you mean 'flux-dev'?"),
    "plan --model '' --method fora": ("unknown model ''",),
    "plan --model a/b --method fora": ("unknown model 'a/b'", "local folders"),
    "plan --model empty --method fora": ("'empty' holds no config.json",),
    "plan --model text.txt --method fora": ("unknown model 'text.txt'",),
    "plan --model broken-config --method fora": ("config.json", "is not JSON"),
    "plan --model list-config --method fora": ("config.json", "must hold an object, got [1]"),
    "plan --model binary-config --method fora": ("config.json", "is no text in UTF-8"),
    "plan --model unet --method fora": ("UNet2DConditionModel", "a plan supports FluxTransformer2DModel"),
    "plan --model nameless --method fora": ("class None", "a plan supports"),
    "plan --model short-flux --method fora": ("has no 'num_attention_heads'",),
    "plan --model short-pixart --method fora": ("has no 'patch_size'",),
    "plan --model short-dit --method fora": ("has no 'patch_size'",),
    "plan --model short-opensora --method fora": ("has no 'patch_size'",),
    "plan --model odd-flux --method fora": ("'num_attention_heads'", "must be a whole number, at least 1, got 'two'"),
    # plan: methods
    "plan --model flux-dev --method tocca": ("unknown method 'tocca'", "did you mean 'toca'?"),
    "plan --model flux-dev --method ToCca": ("unknown method 'ToCca'", "did you mean 'toca'?"),
    "plan --model flux-dev --method taylor": ("unknown method 'taylor'", "did you mean 'taylorseer'?"),
    "plan --model flux-dev --method ''": ("unknown method ''", "known: plain, steps"),
    "plan --model flux-dev --method toca:4:cycle=5": ("gives 'cycle' twice: 4 and 5",),
    "plan --model flux-dev --method toca:cycle=4:cycle=5": ("gives 'cycle' twice: 4 and 5",),
    "plan --model flux-dev --method toca:cycle=true": ("'cycle'", "must be a whole number, got True"),
    "plan --model flux-dev --method toca:ratio=true": ("'ratio'", "must be a number, got True"),
    "plan --model flux-dev --method toca:strict=1": ("'strict'", "must be true or false, got 1"),
    "plan --model flux-dev --method toca:4:nan": ("'ratio'", "must be a number, got 'nan'"),
    "plan --model flux-dev --method toca:4:NaN": ("'ratio'", "must be a number, got nan"),
    "plan --model flux-dev --method toca:4:1e999": ("'ratio'", "must be a number, got inf"),
    "plan --model flux-dev --method toca:4:0.9:randon": ("unknown score 'randon'", "did you mean 'random'?"),
    "plan --model flux-dev --method toca:schedule=constnt": ("unknown schedule", "did you mean 'constant'?"),
    "plan --model flux-dev --method toca:circle=3": ("has no parameter 'circle'", "did you mean 'cycle'?"),
    "plan --model flux-dev --method toca:seed=-1": ("seed must be a whole number from 0", "got -1"),
    "plan --model flux-dev --method toca:=3": ("has no parameter ''",),
    "plan --model flux-dev --method toca:": ("'cycle'", "must be a whole number, got ''"),
    "plan --model flux-dev --method toca:4:0.9:random:9": ("too many values", "toca:cycle:ratio:score"),
    "plan --model flux-dev --method fora:0": ("cycle must be a whole number, at least 1", "got 0"),
    "plan --model flux-dev --method fora:modules=mlp": ("unknown modules 'mlp'; known: all, attention",),
    "plan --model flux-dev --method steps:0": ("fraction must be in (0, 1], got 0",),
    "plan --model flux-dev --method steps:1.5": ("fraction must be in (0, 1], got 1.5",),
    "plan --model flux-dev --method taylorseer:4:-1": ("order must be a whole number, at least 0", "got -1"),
    "plan --model flux-dev --method taylorseer:basis=tailor": ("unknown basis 'tailor'", "did you mean 'taylor'?"),
    "plan --model flux-dev --method taylorseer:lite=true:modules=attention": ("lite", "got 'attention'"),
    "plan --model flux-dev --method deltadit:2:layers=0": ("layers must be a whole number, at least 1", "got 0"),
    "plan --model flux-dev --method deltadit:layers=99": ("layers must be at most", "got 99"),
    "plan --model flux-dev --method pab:4": ("unknown level 4; known: 1, 2, 3",),
    "plan --model flux-dev --method pab:low=900:high=100": ("low and high must be timesteps", "900 and 100"),
    "plan --model flux-dev --method tgate": ("tgate does not run on flux", "families: pixart, opensora"),
    "plan --model pixart-alpha-256 --method tgate:99": ("gate must be at most the number of steps, 50, got 99",),
    "plan --model pixart-alpha-256 --method toca:4:0.9:frame-uniqueness": ("frame-uniqueness", "pixart"),
    "plan --model flux-dev --method duca:aggressive=jump": ("unknown aggressive 'jump'; known: skip, reuse",),
    "plan --model flux-dev --method tome:2": ("ratio must be in [0, 0.75]", "got 2"),
    "plan --model flux-dev --method tome:0.5:stride=2": ("'stride'", "whole numbers such as 2x2, got 2"),
    "plan --model flux-dev --method tome:modules=atn": ("unknown module to merge 'atn'", "did you mean 'attn'?"),
    "plan --model flux-dev --method tome+tome": ("both claim the merging of tokens",),
    "plan --model flux-dev --method fora+toca": ("fora and toca both claim every block's modules",),
    "plan --model flux-dev --method tome+": ("unknown method 'tome+'",),
    "plan --model flux-dev --method composition": ("unknown method 'composition'",),
    # plan: method files
    "plan --model flux-dev --method gone.json": ("method file 'gone.json' does not exist", "short form"),
    "plan --model flux-dev --method broken.json": ("method file 'broken.json' is not JSON",),
    "plan --model flux-dev --method list.json": ("method file 'list.json' must hold an object",),
    "plan --model flux-dev --method number.json": ("method file 'number.json' must hold an object",),
    "plan --model flux-dev --method binary.json": ("method file 'binary.json' is not JSON: it is no text in UTF-8",),
    "plan --model flux-dev --method deep.json": ("method file 'deep.json' is nested too deeply",),
    "plan --model flux-dev --method folder.json": ("method file 'folder.json' is a folder",),
    "plan --model flux-dev --method nomethod.json": ("unknown method None",),
    "plan --model flux-dev --method listname.json": ("unknown method ['toca']",),
    "plan --model flux-dev --method misspelt.json": ("has no parameter 'circle'", "did you mean 'cycle'?"),
    "plan --model flux-dev --method twice.json": ("gives 'cycle' twice",),
    "plan --model flux-dev --method nullcycle.json": ("'cycle'", "must be a whole number, got None"),
    "plan --model flux-dev --method textcycle.json": ("'cycle'", "must be a whole number, got '4'"),
    "plan --model flux-dev --method boolcycle.json": ("'cycle'", "must be a whole number, got True"),
    "plan --model flux-dev --method nopart.json": ("a composition in JSON has a list",),
    "plan --model flux-dev --method badpart.json": ("a method in JSON is an object", "got 'toca'"),
    # plan: options
    "plan --model flux-dev": ("Missing option '--method'",),
    "plan --method fora": ("Missing option '--model'",),
    "plan --model flux-dev --method toca --fraction 0.5": ("--fraction does not belong to method 'toca'",),
    "plan --model flux-dev --method fora --score random": ("--score does not belong to method 'fora'",),
    "plan --model flux-dev --method plain --cycle 3": ("--cycle does not belong to method 'plain'",),
    "plan --model flux-dev --method steps --strict": ("--strict does not belong to method 'steps'",),
    "plan --model flux-dev --method tome --warmup 1": ("--warmup does not belong to method 'tome'",),
    "plan --model flux-dev --method tome+fora --score norm": ("--score does not belong to method 'composition'",),
    "plan --model flux-dev --method tome+toca --ratio 0.5": ("both methods of 'tome+toca' have --ratio",),
    "plan --model flux-dev --method toca --cycle 4 --cycle 5": ("--cycle is given twice",),
    "plan --model flux-dev --model flux-schnell --method toca": ("--model is given twice",),
    "plan --model flux-dev --method toca --method fora": ("--method is given twice",),
    "plan --model flux-dev --method toca --ratio nan": ("'ratio'", "must be a number, got nan"),
    "plan --model flux-dev --method toca --ratio inf": ("'ratio'", "must be a number, got inf"),
    "plan --model flux-dev --method toca --ratio 1.01": ("ratio must be in [0, 1]", "got 1.01"),
    "plan --model flux-dev --method toca --cycle 2.5": ("'--cycle'", "integer"),
    "plan --model flux-dev --method toca --warmup 0": ("warmup must be a whole number, at least 1", "got 0"),
    "plan --model flux-dev --method toca --schedule cosine": ("unknown schedule 'cosine'",),
    "plan --model flux-dev --method toca --accounting pre-projection": ("--accounting has no effect without --json",),
    "plan --model flux-dev --method toca --json --accounting preprojection": ("did you mean 'pre-projection'?",),
    "plan --model flux-dev --method toca --steps 0": ("steps must be at least 1, got 0",),
    "plan --model flux-dev --method toca --steps -5": ("steps must be at least 1, got -5",),
    "plan --model flux-dev --method toca --steps 1000000000": ("steps must be at most 10000, got 1000000000",),
    "plan --model flux-dev --method toca --steps many": ("'--steps'", "integer"),
    "plan --model flux-dev --method toca --height 0": ("multiples of 16 pixels, got 0x0",),
    "plan --model flux-dev --method toca --height 1000": ("multiples of 16 pixels, got 1000x1000",),
    "plan --model flux-dev --method toca --width -16": ("multiples of 16 pixels, got -16x-16",),
    "plan --model shapes-flux --method toca --height 7": ("multiples of", "got 7x7"),
    "plan --model dit-xl-2-256 --method toca --height 256 --width 512": ("square",),
    "plan --model opensora-1.2-480p-2s --method toca --height 480": ("the size of 'opensora-1.2-480p-2s'",),
    "plan --model flux-dev --method toca --batch 0": ("batch must be at least 1, got 0",),
    "plan --model flux-dev --method toca --text-tokens 0": ("text_tokens must be at least 1, got 0",),
    "plan --model shapes-flux --method toca --text-tokens -1": ("text_tokens must be", "got -1"),
    "plan --model dit-xl-2-256 --method toca --text-tokens 20": ("has no text",),
    "plan --model shapes-dit --method toca --text-tokens 20": ("has no text",),
    "plan --model flux-dev --method toca --max-cache 3.2": ("got '3.2' without a unit",),
    "plan --model flux-dev --method toca --max-cache 3": ("got '3' without a unit",),
    "plan --model flux-dev --method toca --max-cache 3.2G": ("a size in bytes is a number such as 3.2GB", "'3.2G'"),
    "plan --model flux-dev --method toca --max-cache -1GB": ("a size in bytes", "'-1GB'"),
    "plan --model flux-dev --method toca --max-cache nan": ("a size in bytes", "'nan'"),
    "plan --model flux-dev --method toca --max-cache ''": ("a size in bytes", "''"),
    "plan --model flux-dev --method toca --store-dtype fp4": ("unknown store dtype 'fp4'", "did you mean"),
    "plan --model flux-dev --method toca --store-dtype 2GB": ("unknown store dtype '2GB'", "max_cache_bytes"),
    "plan --model flux-dev --method toca --store-device gpu": ("unknown store device 'gpu'", "'cpu'"),
    "plan --model flux-dev --method toca --plot plan.gif": ("--plot draws .png, .svg, .pdf files, got 'plan.gif'",),
    "plan --model flux-dev --method toca --plot plan": ("--plot draws .png, .svg, .pdf files, got 'plan'",),
    "plan --model flux-dev --method toca --plot gone/plan.png": ("gone/plan.png", "No such file or directory"),
    "plan --model flux-dev --method toca --plot picture.png": ("picture.png", "is a folder"),
    "plan --model flux-dev --method toca --plot text.txt/plan.png": ("text.txt/plan.png",),
    "plan --model flux-dev --method toca extra": ("extra",),
    "plan --modle flux-dev --method toca": ("--modle", "--model"),
    "plna": ("plna", "plan"),
    # compare
    "compare --out out": ("give --prompts to make pictures, or --pictures",),
    "compare --prompts 2": ("Missing option '--out'",),
    "compare --out out --prompts 0": ("--prompts must be at least 1, got 0",),
    "compare --out out --prompts -3": ("--prompts must be at least 1, got -3",),
    "compare --out out --prompts 2.5": ("--prompts must be a whole number", "got '2.5'"),
    "compare --out out --prompts ''": ("--prompts is empty",),
    "compare --out out --prompts '' --prompts cat": ("--prompts is empty",),
    "compare --out out --prompts gone.txt": ("prompt file 'gone.txt' does not exist",),
    "compare --out out --prompts empty.txt": ("prompt file 'empty.txt' is empty",),
    "compare --out out --prompts binary.txt": ("prompt file 'binary.txt' is no text in UTF-8",),
    "compare --out out --prompts empty": ("--prompts 'empty' is a folder",),
    "compare --out out --prompts gone.csv": ("gone.csv",),
    "compare --out out --prompts 2 --model nowhere": ("unknown model 'nowhere'",),
    "compare --out out --prompts 2 --model shapes-fluks": ("unknown model", "did you mean 'shapes-flux'?"),
    "compare --out out --prompts 2 --model empty": ("'empty' holds no model_index.json",),
    "compare --out out --prompts 2 --methods tocca:4": ("unknown method 'tocca'",),
    "compare --out out --prompts 2 --methods ''": ("--methods",),
    "compare --out out --prompts 2 --methods gone.json": ("method file 'gone.json' does not exist",),
    "compare --out out --prompts 2 --steps 0": ("steps must be at least 1, got 0",),
    "compare --out out --prompts 2 --seed -1": ("seed must be a whole number from 0", "got -1"),
    "compare --out out --prompts 2 --seed 99999999999999999999": ("seed must be a whole number from 0",),
    "compare --out out --prompts 2 --batch 0": ("batch must be at least 1, got 0",),
    "compare --out out --prompts 2 --repeats 0": ("repeats must be at least 1, got 0",),
    "compare --out out --prompts 2 --warmup -1": ("warmup must be at least 1, got -1",),
    "compare --out out --prompts 2 --guidance nan": ("guidance must be a number, got nan",),
    "compare --out out --prompts 2 --guidance inf": ("guidance must be a number, got inf",),
    "compare --out out --prompts 2 --dtype fp16": ("unknown dtype 'fp16'; known: float32",),
    "compare --out out --prompts 2 --device gpu": ("unknown device 'gpu'",),
    "compare --out out --prompts 2 --device meta": ("device 'meta'", "nothing can be computed"),
    "compare --out out --prompts 2 --store-device tpu": ("unknown store device 'tpu'",),
    "compare --out out --prompts 2 --max-cache 3.2": ("without a unit",),
    "compare --out out --prompts 2 --metrics fidd": ("unknown metric 'fidd'", "did you mean 'fid'?"),
    "compare --out out --prompts 2 --metrics ''": ("no metrics were given",),
    "compare --out out --prompts 2 --weights empty": ("--weights has no effect on metrics without networks (none)",),
    "compare --out out --prompts 2 --metrics psnr --weights empty": ("--weights has no effect", "(psnr)"),
    "compare --out out --prompts 2 --network clip=x": ("--network has no effect",),
    "compare --out out --prompts 2 --metrics clip --network clip": ("--network takes NAME=PATH",),
    "compare --out out --prompts 2 --metrics clip --network clipp=x": ("unknown network 'clipp'", "'clip'?"),
    "compare --out out --prompts 2 --metrics clip --network lpips=x": ("--network lpips=... has no effect",),
    "compare --out out --prompts 2 --metrics clip --reference empty": ("--reference has no effect",),
    "compare --out out --prompts 2 --reference empty": ("--reference has no effect",),
    "compare --out out --prompts 2 --metrics clip --weights gone": ("there is no folder of weights 'gone'",),
    "compare --out out --prompts 2 --seed 1 --seed 2": ("--seed is given twice",),
    "compare --out out --pictures empty --prompts 2": ("--prompts belongs to making pictures",),
    "compare --out out --pictures empty --steps 2": ("--steps belongs to making pictures",),
    "compare --out out --pictures empty --store-device cpu": ("--store-device belongs to making pictures",),
    "compare --out out --pictures empty --device cpu": ("--device has no effect without --metrics",),
    "compare --out out --pictures gone": ("gone",),
    "compare --out out --pictures a=empty --pictures plain=empty": ("empty",),
    # study
    "study": ("Missing argument",),
    "study selektion": ("unknown study 'selektion'", "did you mean 'selection'?"),
    "study selection --out out --cycle 0": ("cycle must be a whole number, at least 1", "got 0"),
    "study selection --out out --ratio 2": ("ratio must be in [0, 1]", "got 2"),
    "study selection --out out --ratio nan": ("ratio must be in [0, 1]", "got nan"),
    "study selection --out out --model nowhere": ("unknown model 'nowhere'",),
    "study selection --out out --metrics psnr --prompts 0": ("--prompts must be at least 1, got 0",),
    "study selection --out out --metrics psnr --seed -1": ("seed must be a whole number from 0", "got -1"),
    "study selection --out out --metrics psnr --steps 0": ("steps must be at least 1, got 0",),
    "study selection --out out --metrics psnr --weights empty": ("--weights has no effect",),
    "study selection --out out --metrics psnr --cycle 4 --cycle 5": ("--cycle is given twice",),
    # generate
    "generate --prompt cat --out out --method tocca": ("unknown method 'tocca'",),
    "generate --prompt cat --out out --method gone.json": ("method file 'gone.json' does not exist",),
    "generate --prompt cat --out out --model nowhere": ("unknown model 'nowhere'",),
    "generate --prompt cat --out out --steps 0": ("steps must be at least 1, got 0",),
    "generate --prompt cat --out out --workers 4": ("--workers has no effect without --engine ray",),
    "generate --prompt cat --out out --engine ray --workers 0": ("--workers must be a number from 1 on",),
    "generate --prompt cat --out out --engine slurm": ("unknown engine 'slurm'",),
    "generate --prompt cat --out out --fps 24": ("--fps has no effect on png files",),
    "generate --prompt cat --out out --fps nan": ("fps must be a number, got nan",),
    "generate --prompt cat --out out --guidance nan": ("guidance must be a number, got nan",),
    "generate --prompt cat --out out --format jpgg": ("unknown format 'jpgg'; known: png",),
    "generate --prompt cat --out out --batch-size few": ("--batch-size must be auto or at least 1, got 'few'",),
    "generate --prompt cat --out out --dtype fp16": ("unknown dtype 'fp16'",),
    "generate --prompt cat --out out --device gpu": ("unknown device 'gpu'",),
    "generate --prompt cat --out out --max-cache 2.5": ("without a unit",),
    "generate --prompt cat --out out --store-dtype fp4": ("unknown store dtype 'fp4'",),
    "generate --prompt cat --out out --steps 2 --steps 3": ("--steps is given twice",),
    "generate --prompt cat --out out --exact --no-exact": ("--exact is given twice",),
    # bench
    "bench --shape cpu-fluxx": ("unknown shape 'cpu-fluxx'", "did you mean 'cpu-flux'?"),
    "bench --methods tocca": ("unknown method 'tocca'",),
    "bench --methods tgate": ("tgate does not run on flux",),
    "bench --methods ''": ("--methods",),
    "bench --rivals teacach": ("unknown rival 'teacach'",),
    "bench --scale 0": ("scale must be above 0 and at most 1, got 0",),
    "bench --scale 2": ("scale must be above 0 and at most 1, got 2",),
    "bench --scale nan": ("scale must be a number, got nan",),
    "bench --steps 0": ("steps must be at least 1, got 0",),
    "bench --repeats 0": ("repeats must be at least 1, got 0",),
    "bench --batch 0": ("batch must be at least 1, got 0",),
    "bench --threads 0": ("threads must be at least 1, got 0",),
    "bench --text-tokens 0": ("text_tokens must be at least 1, got 0",),
    "bench --shape dit-xl-2-256 --text-tokens 8": ("has no text",),
    "bench --dtype int8": ("unknown dtype 'int8'",),
    "bench --device cuda:99": ("device 'cuda:99'",),
    "bench --compile all": ("unknown compile 'all'; known: none, blocks, model",),
    "bench --steps 3 --steps 4": ("--steps is given twice",),
    # convert-opensora
    "convert-opensora": ("Missing option '--out'",),
    "convert-opensora --out broken-config": ("--out 'broken-config' is not empty",),
    "convert-opensora --out text.txt": ("--out 'text.txt'",),
    "convert-opensora --out out --dtype half": ("unknown dtype 'half'",),
    "convert-opensora --out out --text-encoder-dtype half": ("unknown text_encoder_dtype 'half'",),
    "convert-opensora --out out --text-encoder none --text-encoder-dtype float32": ("has no effect with",),
    "convert-opensora --out out --text-encoder none --local-files-only --vae empty --transformer empty": (
        "'empty' holds no",
    ),
    "convert-opensora --out out --text-encoder none --local-files-only --vae gone --transformer gone": (
        "'gone' is neither a file, nor a folder",
    ),
    "convert-opensora --out out --text-encoder none --local-files-only --vae text.txt --transformer text.txt": (
        "'text.txt' is not a safetensors",
    ),
    "convert-opensora --out out --text-encoder none --vae w.safetensors --transformer w.safetensors": (
        "'w.safetensors'",
    ),
    "convert-opensora --out out --text-encoder none --local-files-only --vae no-tensors --transformer no-tensors": (
        "no-tensors",
    ),
    # judge
    "judge --model nowhere": ("'nowhere' does not know the shapes world",),
    "judge --model flux-dev": ("'flux-dev' does not know the shapes world",),
    "judge --method tocca": ("unknown method 'tocca'",),
    "judge --prompts 0": ("prompts must be at least 1, got 0",),
    "judge --steps 0": ("steps must be at least 1, got 0",),
    "judge --batch 0": ("batch must be at least 1, got 0",),
    "judge --seed -1": ("seed must be a whole number from 0", "got -1"),
    "judge --dtype half": ("unknown dtype 'half'",),
    "judge --device gpu": ("unknown device 'gpu'",),
    "judge --images gone": ("gone",),
    "judge --images empty": ("'empty' holds neither",),
    "judge --images text.txt": ("text.txt",),
    "judge --images empty --steps 3": ("--steps has no effect with --images",),
    "judge --images empty --method fora": ("--method has no effect with --images",),
    "judge --images empty --device cpu": ("--device has no effect with --images",),
    "judge --images bad-results": ("results.json", "is not JSON"),
    "judge --images list-results": ("results.json", "holds no list 'results'"),
    "judge --images odd-results": ("results.json",),
    "judge --images odd-manifest": ("manifest.json",),
    "judge --images no-pictures": ("manifest.json",),
    "judge --images lost-picture": ("lost.png",),
    "judge --images wrong-caption": ("caption",),
    # evaluate
    "evaluate": ("Missing argument",),
    "evaluate gone": ("gone",),
    "evaluate empty": ("empty",),
    "evaluate text.txt": ("text.txt",),
    "evaluate pictures --metrics fidd": ("unknown metric 'fidd'", "did you mean 'fid'?"),
    "evaluate pictures --metrics ''": ("no metrics were given",),
    "evaluate pictures --metrics fid": ("fid needs --reference",),
    "evaluate pictures --metrics clip": ("clip needs prompts",),
    "evaluate pictures --metrics psnr": ("psnr needs the plain pipeline's pictures",),
    "evaluate pictures --metrics psnr --plain gone": ("gone",),
    "evaluate pictures --metrics fid --reference gone": ("gone",),
    "evaluate pictures --metrics fid --reference text.txt": ("text.txt",),
    "evaluate pictures --metrics clip --prompts gone.json": ("gone.json",),
    "evaluate pictures --metrics clip --prompts broken.json": ("broken.json",),
    "evaluate pictures --metrics clip --reference pictures": ("--reference has no effect",),
    "evaluate pictures --metrics psnr --plain pictures --prompts list.json": ("--prompts has no effect",),
    "evaluate pictures --metrics psnr --plain pictures --weights empty": ("--weights has no effect",),
    "evaluate pictures --metrics psnr --plain pictures --download": ("--download has no effect",),
    "evaluate pictures --metrics clip --resize clean": ("--resize has no effect",),
    "evaluate pictures --resize bicubic": ("unknown resize 'bicubic'",),
    "evaluate pictures --batch 0": ("batch must be at least 1, got 0",),
    "evaluate pictures --device gpu": ("unknown device 'gpu'",),
    "evaluate pictures --workers 2": ("--workers has no effect without --engine ray",),
    "evaluate pictures --engine spark": ("unknown engine 'spark'",),
    "evaluate pictures --engine ray --workers x": ("--workers must be a number from 1 on",),
    "evaluate pictures --network clip": ("--network takes NAME=PATH",),
    "evaluate pictures --weights gone": ("there is no folder of weights 'gone'",),
    # demo
    "demo --method tocca": ("unknown method 'tocca'", "did you mean 'toca'?"),
    "demo --method gone/": ("method file 'gone/' does not exist",),
    "demo --method tgate": ("tgate does not run on flux",),
    "generate --prompt a --out out --method list.json": ("method file 'list.json' must hold an object",),
    "plan --model flux-dev --method empty/": ("method file 'empty/' is a folder without a method.json",),
    "plan --model flux-dev --method newer.json": ("method file 'newer.json': format 2 is newer", "update dita"),
    "plan --model flux-dev --method oddkey.json": ("has no 'made_fro'", "did you mean 'made_for'?"),
    "compare --out out --prompts 2 --methods plain,newer.json": ("method file 'newer.json': format 2 is newer",),
    "demo --port 0": ("port must be a whole number from 1 to 65535, got 0",),
    "demo --port 70000": ("port must be a whole number from 1 to 65535, got 70000",),
    "demo --port -1": ("port must be a whole number from 1 to 65535, got -1",),
    "demo --port web": ("'--port'", "integer"),
    "demo --port {taken}": ("port {taken} of '127.0.0.1' is in use",),
    "demo --host 256.256.256.256": ("host '256.256.256.256' is no address of this machine",),
    "demo --host ''": ("host '' is no address of this machine",),
    "demo --host 8.8.8.8": ("host '8.8.8.8' is no address of this machine",),
    "demo --host 'a b'": ("host 'a b' is no address of this machine",),
    "demo --max-steps 0": ("max_steps must be at least 1, got 0",),
    "demo --model nowhere": ("unknown model 'nowhere'",),
    "demo --model empty": ("'empty' holds no model_index.json",),
    "demo --dtype half": ("unknown dtype 'half'",),
    "demo --device gpu": ("unknown device 'gpu'",),
    # methods, tables
    "methods tocca": ("unknown method 'tocca'", "did you mean 'toca'?"),
    "tables fluxx": ("unknown table 'fluxx'", "did you mean 'flux'?"),
    "tables flux --jsn": ("--jsn",),
    # pipelines that cannot be loaded
    "compare --out out --prompts 2 --model no-index": ("holds no model_index.json",),
    "compare --out out --prompts 2 --model bad-index": ("model_index.json", "is not JSON"),
    "compare --out out --prompts 2 --model list-index": ("model_index.json", "must hold an object"),
    "compare --out out --prompts 2 --model no-class": ("'no-class' cannot be loaded",),
    "compare --out out --prompts 2 --model other-class": ("'other-class' cannot be loaded",),
    "compare --out out --prompts 2 --model no-parts": ("'no-parts' cannot be loaded",),
}

CAPTION = "a large red circle left of a blue star on a white background"
NO_TENSORS = (2).to_bytes(8, "little") + b"{}"
FILES = {
    "text.txt": "words",
    "w.safetensors": "words",
    "no-tensors/config.json": "[1]",
    "no-tensors/model.safetensors": NO_TENSORS,
    "empty.txt": "\n\n",
    "binary.txt": b"\xff\xfe\x00",
    "binary.json": b"\xff\xfe\x00",
    "broken.json": "{",
    "list.json": "[1]",
    "number.json": "4",
    "deep.json": "[" * 100_000,
    "folder.json/inside": "",
    "nomethod.json": "{}",
    "listname.json": '{"method": ["toca"]}',
    "misspelt.json": '{"method": "toca", "circle": 3}',
    "twice.json": '{"method": "toca", "cycle": 3, "cycle": 4}',
    "nullcycle.json": '{"method": "toca", "cycle": null}',
    "textcycle.json": '{"method": "toca", "cycle": "4"}',
    "boolcycle.json": '{"method": "toca", "cycle": true}',
    "newer.json": '{"format": 2, "method": {"method": "later"}}',
    "oddkey.json": '{"format": 1, "method": {"method": "toca"}, "made_fro": {}}',
    "five.json": '{"method": "toca", "cycle": 5}',
    "nopart.json": '{"method": "composition"}',
    "badpart.json": '{"method": "composition", "methods": ["toca"]}',
    "picture.png/inside": "",
    "broken-config/config.json": "{",
    "list-config/config.json": "[1]",
    "binary-config/config.json": b"\xff\xfe\x00",
    "unet/config.json": '{"_class_name": "UNet2DConditionModel"}',
    "nameless/config.json": "{}",
    "short-flux/config.json": '{"_class_name": "FluxTransformer2DModel"}',
    "short-pixart/config.json": '{"_class_name": "PixArtTransformer2DModel"}',
    "short-dit/config.json": '{"_class_name": "DiTTransformer2DModel"}',
    "short-opensora/config.json": '{"_class_name": "OpenSoraTransformer3DModel"}',
    "odd-flux/config.json": '{"_class_name": "FluxTransformer2DModel", "num_attention_heads": "two"}',
    "bad-results/results.json": "{",
    "list-results/results.json": "[]",
    "odd-results/results.json": '{"prompts": ["a red circle"], "results": [{}]}',
    "odd-manifest/manifest.json": '{"pictures": [{"file": 3}]}',
    "no-pictures/manifest.json": '{"pictures": []}',
    "lost-picture/manifest.json": json.dumps({"pictures": [{"file": "lost.png", "prompt": CAPTION}]}),
    "wrong-caption/manifest.json": '{"pictures": [{"file": "lost.png", "prompt": "my grandmother"}]}',
    "no-index/transformer/config.json": "{}",
    "bad-index/model_index.json": "{",
    "list-index/model_index.json": "[]",
    "no-class/model_index.json": "{}",
    "other-class/model_index.json": '{"_class_name": "NoSuchPipeline"}',
    "no-parts/model_index.json": json.dumps(
        {"_class_name": "FluxPipeline", "transformer": ["diffusers", "FluxTransformer2DModel"]}
    ),
}


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with whatever the entries name."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("material")
    for name, content in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    (folder / "empty").mkdir()
    (folder / "pictures").mkdir()
    for number in range(3):
        Image.fromarray(np.full((16, 16, 3), 40 * number, np.uint8)).save(folder / "pictures" / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def taken() -> Any:
    """A port that somebody listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.fixture(autouse=True)
def soon() -> Any:
    """Whatever takes longer than `LIMIT` is not refused but done."""

    def end(*_: object) -> None:
        raise SystemExit(f"not refused in {LIMIT} seconds")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(LIMIT)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(("line", "words"), COMMANDS.items(), ids=COMMANDS)
def test_a_command(line: str, words: tuple[str, ...], material: Path, taken: int, monkeypatch: Any) -> None:
    monkeypatch.chdir(material)
    monkeypatch.setattr("dita.cli.libraries.silence", lambda: None)
    before = sorted(material.rglob("*"))
    result = CliRunner().invoke(cli.app, shlex.split(line.format(taken=taken)))
    shown = result.output
    print(shown)
    assert result.exit_code == 2, repr(result.exception)
    assert "Traceback" not in shown and "[Errno" not in shown
    errors = [part for part in result.stderr.splitlines() if part.lower().startswith("error: ")]
    assert len(errors) == 1 and result.stdout == "", shown
    for word in words:
        assert word.format(taken=taken) in errors[0]
    assert sorted(material.rglob("*")) == before, "nothing is written"


SAID: dict[str, tuple[str, ...]] = {
    "plan --model flux-dev --method toca:5 --cycle 4": ("--cycle 4 takes the place of 5 in 'toca:5'",),
    "plan --model flux-dev --method tome+toca:5 --cycle 4": ("--cycle 4 takes the place of 5",),
    "plan --model flux-dev --method five.json --cycle 4": ("--cycle 4 takes the place of 5 in 'five.json'",),
    "plan --model flux-dev --method plain --store-dtype fp8": ("--store-dtype has no effect: plain keeps no features",),
    "plan --model flux-dev --method steps:0.5 --max-cache 1GB": ("--max-cache has no effect: steps keeps no features",),
    "plan --model flux-dev --method toca:4 --steps 3": ("saves nothing in 3 steps",),
    "plan --model flux-dev --method taylorseer:4:4 --steps 6": ("it is lowered to",),
}
"""What is done all the same, with a warning."""


@pytest.mark.parametrize(("line", "words"), SAID.items(), ids=SAID)
def test_what_is_said(line: str, words: tuple[str, ...], material: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(material)
    result = CliRunner().invoke(cli.app, [*shlex.split(line), "--json"])
    assert result.exit_code == 0 and json.loads(result.stdout)
    assert result.stderr.startswith("warning: ") and result.stderr.count("\n") == 1
    for word in words:
        assert word in result.stderr


@pytest.mark.parametrize("line", ["toca:4 --cycle 4", "tome+toca --cycle 4", "toca --strict", "toca --max-cache 1GB"])
def test_nothing_is_said_of_what_is_meant(line: str) -> None:
    result = CliRunner().invoke(cli.app, ["plan", "--model", "flux-dev", "--json", "--method", *shlex.split(line)])
    assert result.exit_code == 0 and result.stderr == ""


def test_features_of_a_model_on_the_cpu_are_there_already() -> None:
    with pytest.warns(UserWarning, match="--store-device has no effect: the model is on the cpu"):
        say_what_is_not_kept(dita.Store(device="cpu"), [dita.ToCa()], "cpu")


WEIGHTS = "diffusion_pytorch_model.safetensors"


def _without_weights(folder: Path) -> None:
    (folder / "transformer" / WEIGHTS).unlink()


def _truncated(folder: Path) -> None:
    path = folder / "transformer" / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1000])


def _no_tensors(folder: Path) -> None:
    (folder / "transformer" / WEIGHTS).write_bytes(b"words")


def _narrower(folder: Path) -> None:
    path = folder / "transformer" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"num_attention_heads": config["num_attention_heads"] + 1}))


def _odd_type(folder: Path) -> None:
    path = folder / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_layers": "three"}))


def _without_vae(folder: Path) -> None:
    shutil.rmtree(folder / "vae")


def _without_scheduler_file(folder: Path) -> None:
    for path in (folder / "scheduler").iterdir():
        path.unlink()


DAMAGES = (
    _without_weights, _truncated, _no_tensors, _narrower, _odd_type, _without_vae, _without_scheduler_file,
)  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda one: one.__name__.strip("_"))
@pytest.mark.parametrize("name", miniature.MINIATURES)
def test_a_damaged_folder(name: str, damage: Callable[[Path], None], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("dita.cli.libraries.silence", lambda: None)
    folder = tmp_path / "model"
    shutil.copytree(miniature.folder(name), folder)
    damage(folder)
    result = CliRunner().invoke(
        cli.app, ["compare", "--out", str(tmp_path / "out"), "--prompts", "a circle", "--model", str(folder)]
    )
    print(result.output)
    assert result.exit_code == 2, repr(result.exception)
    assert "Traceback" not in result.output and "[Errno" not in result.output
    errors = [part for part in result.stderr.splitlines() if part.startswith("error: ")]
    assert len(errors) == 1 and f"model '{folder}' cannot be loaded: " in errors[0]
    assert not (tmp_path / "out").exists()


FLUX = named_shape("flux-dev")
TEN = list(range(10))


def _pipe() -> Any:
    return tiny_pipeline()


def _model() -> Any:
    return tiny_transformer()


def _compare(methods: Any = ("fora",), prompts: Any = ("a",), pipe: Any = ..., **more: Any) -> Any:
    return compare(StandIn() if pipe is ... else pipe, methods, prompts, out="out-of-compare", **more)


def _plan() -> Any:
    return dita.FORA(3).plan(FLUX, 4)


def _ran() -> Any:
    """A pipeline that has run without a record."""
    from tests.tiny_flux import call

    pipe = dita.enable(_pipe(), "fora:2")
    call(pipe, steps=2)
    return pipe


PYTHON: dict[str, tuple[Callable[[], object], type[Exception], tuple[str, ...]]] = {
    # enable, disable, summary
    "enable(pipe, 3)": (lambda: dita.enable(_pipe(), 3), ValueError, ("must be a dita method", "got 3")),
    "enable(pipe, None)": (lambda: dita.enable(_pipe(), None), ValueError, ("must be a dita method", "got None")),
    "enable(pipe, '')": (lambda: dita.enable(_pipe(), ""), ValueError, ("unknown method ''",)),
    "enable(pipe, [])": (lambda: dita.enable(_pipe(), []), ValueError, ("takes one tome and one other method",)),
    "enable(pipe, [3])": (lambda: dita.enable(_pipe(), [3]), ValueError, ("must be a dita method", "got 3")),
    "enable(pipe, ToCa)": (lambda: dita.enable(_pipe(), dita.ToCa), ValueError, ("did you mean ToCa()?",)),
    "enable(pipe, {...})": (lambda: dita.enable(_pipe(), {"method": "tocca"}), ValueError, ("did you mean 'toca'?",)),
    "enable(pipe, b'toca')": (lambda: dita.enable(_pipe(), b"toca"), ValueError, ("must be a dita method",)),
    "enable(pipe, 'tocca')": (lambda: dita.enable(_pipe(), "tocca"), ValueError, ("did you mean 'toca'?",)),
    "enable(pipe, two caches)": (lambda: dita.enable(_pipe(), ["fora", "toca"]), ValueError, ("both claim",)),
    "enable(pipe, 'tgate')": (lambda: dita.enable(_pipe(), "tgate"), ValueError, ("does not run on flux",)),
    "enable('pipe')": (lambda: dita.enable("pipe", "toca"), UnsupportedModelError, ("str has no transformer",)),
    "enable(None)": (lambda: dita.enable(None, "toca"), UnsupportedModelError, ("NoneType has no transformer",)),
    "enable(class)": (lambda: dita.enable(type(_pipe()), "toca"), UnsupportedModelError, ("has no transformer",)),
    "enable(linear)": (lambda: dita.enable(torch.nn.Linear(2, 2), "toca"), UnsupportedModelError, ("Linear",)),
    "enable(vae)": (lambda: dita.enable(_pipe().vae, "toca"), UnsupportedModelError, ("AutoencoderKL",)),
    "enable(steps on a pipe)": (lambda: dita.enable(_pipe(), "toca", steps=4), ValueError, ("bare transformers",)),
    "enable(model)": (lambda: dita.enable(_model(), "toca"), ValueError, ("pass steps", "steps=None")),
    "enable(steps=0)": (lambda: dita.enable(_model(), "toca", steps=0), ValueError, ("got steps=0",)),
    "enable(steps=-1)": (lambda: dita.enable(_model(), "toca", steps=-1), ValueError, ("steps", "at least 1", "-1")),
    "enable(steps='4')": (lambda: dita.enable(_model(), "toca", steps="4"), ValueError, ("steps", "whole", "'4'")),
    "enable(steps=True)": (lambda: dita.enable(_model(), "toca", steps=True), ValueError, ("steps", "whole", "True")),
    "enable(steps=2.5)": (lambda: dita.enable(_model(), "toca", steps=2.5), ValueError, ("steps", "whole", "2.5")),
    "enable(calls_per_step=0)": (
        lambda: dita.enable(_model(), "toca", steps=4, calls_per_step=0), ValueError, ("calls_per_step", "got 0")),
    "enable(calls_per_step='2')": (
        lambda: dita.enable(_model(), "toca", steps=4, calls_per_step="2"), ValueError, ("calls_per_step", "'2'")),
    "enable(timesteps=3)": (
        lambda: dita.enable(_model(), "toca", steps=4, timesteps=3), ValueError, ("timesteps must be numbers",)),
    "enable(timesteps='abcd')": (
        lambda: dita.enable(_model(), "toca", steps=4, timesteps="abcd"), ValueError, ("timesteps must be numbers",)),
    "enable(timesteps=[None])": (
        lambda: dita.enable(_model(), "toca", steps=1, timesteps=[None]), ValueError, ("timesteps", "got None")),
    "enable(timesteps=[nan])": (
        lambda: dita.enable(_model(), "toca", steps=1, timesteps=[float("nan")]), ValueError, ("timesteps", "nan")),
    "enable(too many timesteps)": (
        lambda: dita.enable(_model(), "toca", steps=4, timesteps=TEN), ValueError, ("each of the 4 steps, got 10",)),
    "enable(memory_limit=-1)": (
        lambda: dita.enable(_pipe(), "toca", memory_limit=-1), ValueError, ("memory_limit must be", "got -1")),
    "enable(memory_limit='2GB')": (
        lambda: dita.enable(_pipe(), "toca", memory_limit="2GB"), ValueError, ("memory_limit must be", "'2GB'")),
    "enable(memory_limit=True)": (
        lambda: dita.enable(_pipe(), "toca", memory_limit=True), ValueError, ("memory_limit must be", "True")),
    "enable(record='yes')": (
        lambda: dita.enable(_pipe(), "toca", record="yes"), ValueError, ("record must be true or false", "'yes'")),
    "enable(store='fp8')": (
        lambda: dita.enable(_pipe(), "toca", store="fp8"), ValueError, ("must be a dita.Store", "'fp8'")),
    "disable(3)": (lambda: dita.disable(3), UnsupportedModelError, ("3 is neither a diffusers pipeline",)),
    "disable('pipe')": (lambda: dita.disable("pipe"), UnsupportedModelError, ("'pipe' is neither",)),
    "summary(3)": (lambda: dita.summary(3), UnsupportedModelError, ("3 is neither a diffusers pipeline",)),
    "summary(None)": (lambda: dita.summary(None), UnsupportedModelError, ("None is neither",)),
    "summary(plain)": (lambda: dita.summary(_pipe()), RuntimeError, ("dita is not enabled on this FluxPipeline",)),
    "summary(never ran)": (lambda: dita.summary(dita.enable(_pipe(), "fora")), RuntimeError, ("has not run",)),
    # methods
    "ToCa(cycle=0)": (lambda: dita.ToCa(0), ValueError, ("cycle", "at least 1", "got 0")),
    "ToCa(cycle=True)": (lambda: dita.ToCa(True), ValueError, ("cycle", "whole number", "got True")),
    "ToCa(cycle='4')": (lambda: dita.ToCa("4"), ValueError, ("cycle", "whole number", "got '4'")),
    "ToCa(cycle=None)": (lambda: dita.ToCa(None), ValueError, ("cycle", "whole number", "got None")),
    "ToCa(cycle=4.5)": (lambda: dita.ToCa(4.5), ValueError, ("cycle", "whole number", "got 4.5")),
    "ToCa(cycle=tensor of two)": (lambda: dita.ToCa(torch.ones(2)), ValueError, ("cycle", "whole number")),
    "ToCa(cycle=tensor 2.5)": (lambda: dita.ToCa(torch.tensor(2.5)), ValueError, ("cycle", "tensor(2.5")),
    "ToCa(cycle=numpy bool)": (lambda: dita.ToCa(np.True_), ValueError, ("cycle", "True")),
    "ToCa(cycle=array)": (lambda: dita.ToCa(np.array([4])), ValueError, ("cycle", "array([4])")),
    "ToCa(ratio='x')": (lambda: dita.ToCa(ratio="x"), ValueError, ("ratio must be a number", "'x'")),
    "ToCa(ratio=90)": (lambda: dita.ToCa(ratio=90), ValueError, ("ratio must be in [0, 1]", "90")),
    "ToCa(ratio=nan)": (lambda: dita.ToCa(ratio=float("nan")), ValueError, ("ratio must be in [0, 1]", "nan")),
    "ToCa(ratio=True)": (lambda: dita.ToCa(ratio=True), ValueError, ("ratio must be a number", "True")),
    "ToCa(ratio=complex)": (lambda: dita.ToCa(ratio=1j), ValueError, ("ratio must be a number", "1j")),
    "ToCa(score=3)": (lambda: dita.ToCa(score=3), ValueError, ("unknown score 3",)),
    "ToCa(score=['norm'])": (lambda: dita.ToCa(score=["norm"]), ValueError, ("unknown score ['norm']",)),
    "ToCa(score=array)": (lambda: dita.ToCa(score=np.zeros(3)), ValueError, ("unknown score array",)),
    "ToCa(score='atention')": (lambda: dita.ToCa(score="atention"), ValueError, ("did you mean 'attention'?",)),
    "ToCa(strict=1)": (lambda: dita.ToCa(strict=1), ValueError, ("strict must be true or false", "got 1")),
    "ToCa(strict='no')": (lambda: dita.ToCa(strict="no"), ValueError, ("strict must be true or false", "'no'")),
    "ToCa(seed=-1)": (lambda: dita.ToCa(seed=-1), ValueError, ("seed", "from 0", "-1")),
    "ToCa(seed=2**64)": (lambda: dita.ToCa(seed=2**64), ValueError, ("seed", str(2**64))),
    "ToCa(seed=None)": (lambda: dita.ToCa(seed=None), ValueError, ("seed", "None")),
    "ToCa(age_weight=inf)": (lambda: dita.ToCa(age_weight=float("inf")), ValueError, ("age_weight", "inf")),
    "ToCa(forecast=True)": (lambda: dita.ToCa(forecast=True), ValueError, ("forecast", "True")),
    "ToCa(scale=0)": (lambda: dita.ToCa(scale=0), ValueError, ("scale must be in (0, 1]",)),
    "ToCa(basis=None)": (lambda: dita.ToCa(basis=None), ValueError, ("unknown basis None",)),
    "ToCa(cycles=4)": (lambda: dita.ToCa(cycles=4), TypeError, ("cycles",)),
    "FORA(cycle=-2)": (lambda: dita.FORA(-2), ValueError, ("cycle", "-2")),
    "FORA(modules='mlp')": (lambda: dita.FORA(modules="mlp"), ValueError, ("unknown modules 'mlp'",)),
    "FewerSteps(0)": (lambda: dita.FewerSteps(0), ValueError, ("fraction must be in (0, 1]", "0")),
    "FewerSteps('half')": (lambda: dita.FewerSteps("half"), ValueError, ("fraction must be a number", "'half'")),
    "FewerSteps(50)": (lambda: dita.FewerSteps(50), ValueError, ("fraction must be in (0, 1]", "50")),
    "DuCa(aggressive=True)": (lambda: dita.DuCa(aggressive=True), ValueError, ("unknown aggressive True",)),
    "TaylorSeer(order=-1)": (lambda: dita.TaylorSeer(order=-1), ValueError, ("order", "at least 0", "-1")),
    "TaylorSeer(order=1.5)": (lambda: dita.TaylorSeer(order=1.5), ValueError, ("order", "whole number", "1.5")),
    "TaylorSeer(lite='x')": (lambda: dita.TaylorSeer(lite="x"), ValueError, ("lite must be true or false",)),
    "DeltaDiT(boundary=2)": (lambda: dita.DeltaDiT(boundary=2), ValueError, ("boundary must be in [0, 1]", "2")),
    "DeltaDiT(window=-1)": (lambda: dita.DeltaDiT(window=-1), ValueError, ("window", "at least 0", "-1")),
    "TGate(gate=0)": (lambda: dita.TGate(0), ValueError, ("gate", "at least 1", "0")),
    "TGate(interval='2')": (lambda: dita.TGate(interval="2"), ValueError, ("interval", "whole number", "'2'")),
    "PAB(level=True)": (lambda: dita.PAB(True), ValueError, ("level must be a whole number", "True")),
    "PAB(low=-1)": (lambda: dita.PAB(low=-1), ValueError, ("low and high must be timesteps", "-1")),
    "PAB(mlp=None)": (lambda: dita.PAB(mlp=None), ValueError, ("mlp must be true or false", "None")),
    "ToMe(ratio=2)": (lambda: dita.ToMe(2), ValueError, ("ratio must be in [0, 0.75]", "2")),
    "ToMe(stride=2)": (lambda: dita.ToMe(stride=2), ValueError, ("stride", "whole numbers such as 2x2", "got 2")),
    "ToMe(stride=(2,))": (lambda: dita.ToMe(stride=(2,)), ValueError, ("stride must be (height, width)",)),
    "ToMe(stride=(2, 0))": (lambda: dita.ToMe(stride=(2, 0)), ValueError, ("each number of stride", "0")),
    "ToMe(stride=(2, 'a'))": (lambda: dita.ToMe(stride=(2, "a")), ValueError, ("stride", "whole numbers")),
    "ToMe(modules=())": (lambda: dita.ToMe(modules=()), ValueError, ("modules must be at least one of",)),
    "ToMe(modules=None)": (lambda: dita.ToMe(modules=None), ValueError, ("modules", "got None")),
    "ToMe(machine='tpu')": (lambda: dita.ToMe(machine="tpu"), ValueError, ("unknown machine 'tpu'",)),
    "Composition(None)": (lambda: dita.Composition(None), ValueError, ("a composition takes", "got None")),
    "Composition(texts)": (lambda: dita.Composition(("tome", "toca")), ValueError, ("a composition takes",)),
    "as_method(4.0)": (lambda: as_method(4.0), ValueError, ("must be a dita method", "4.0")),
    "parse(3)": (lambda: parse(3), ValueError, ("short form", "got 3")),
    "parse(None)": (lambda: parse(None), ValueError, ("short form", "got None")),
    "from_json([1])": (lambda: from_json([1]), ValueError, ("a method in JSON is an object", "[1]")),
    "from_json(None)": (lambda: from_json(None), ValueError, ("a method in JSON is an object", "None")),
    "from_json(unhashable)": (lambda: from_json({"method": {}}), ValueError, ("unknown method {}",)),
    # plans and shapes
    "plan(name)": (lambda: dita.ToCa().plan("flux-dev", 50), ValueError, ("named_shape", "got 'flux-dev'")),
    "plan(None)": (lambda: dita.FORA().plan(None, 50), ValueError, ("named_shape", "got None")),
    "plan(steps=0)": (lambda: dita.ToCa().plan(FLUX, 0), ValueError, ("steps must be at least 1", "0")),
    "plan(steps='50')": (lambda: dita.TaylorSeer().plan(FLUX, "50"), ValueError, ("steps", "'50'")),
    "plan(steps=True)": (lambda: dita.DuCa().plan(FLUX, True), ValueError, ("steps", "True")),
    "plan(steps=2.5)": (lambda: dita.PAB().plan(FLUX, 2.5), ValueError, ("steps", "2.5")),
    "plan(steps=10**9)": (lambda: dita.Plain().plan(FLUX, 10**9), ValueError, ("at most 10000",)),
    "plan(steps=None)": (lambda: dita.ToMe().plan(FLUX, None), ValueError, ("steps", "None")),
    "check_family('fluxx')": (lambda: dita.ToCa().check_family("fluxx"), ValueError, ("did you mean 'flux'?",)),
    "named_shape('flux')": (lambda: named_shape("flux"), ValueError, ("unknown model shape 'flux'", "'flux-dev'?")),
    "named_shape(None)": (lambda: named_shape(None), ValueError, ("unknown model shape None",)),
    "named_shape(['flux-dev'])": (lambda: named_shape(["flux-dev"]), ValueError, ("unknown model shape",)),
    "named_shape(batch='2')": (lambda: named_shape("flux-dev", batch="2"), ValueError, ("batch", "'2'")),
    "named_shape(batch=True)": (lambda: named_shape("flux-dev", batch=True), ValueError, ("batch", "True")),
    "named_shape(height='big')": (lambda: named_shape("flux-dev", height="big"), ValueError, ("height", "'big'")),
    "named_shape(height=1.5)": (lambda: named_shape("flux-dev", height=1.5), ValueError, ("height", "1.5")),
    "named_shape(text_tokens=0)": (lambda: named_shape("flux-dev", text_tokens=0), ValueError, ("text_tokens", "0")),
    "named_shape(text_tokens='x')": (
        lambda: named_shape("flux-dev", text_tokens="x"), ValueError, ("text_tokens", "'x'")),
    "models.shape(None)": (lambda: models.shape(None), ValueError, ("unknown model None",)),
    "models.shape(text_tokens=0)": (
        lambda: models.shape("shapes-flux", text_tokens=0), ValueError, ("text_tokens", "got 0")),
    "models.load(None)": (lambda: models.load(None), ValueError, ("unknown model None",)),
    "models.load('shapes')": (lambda: models.load("shapes"), ValueError, ("unknown model 'shapes'",)),
    "models.load(dtype)": (lambda: models.load("shapes-flux", "fp16"), ValueError, ("unknown dtype 'fp16'",)),
    "models.load(device)": (lambda: models.load("shapes-flux", device="gpu"), ValueError, ("unknown device 'gpu'",)),
    "models.load(a torch dtype)": (
        lambda: models.load("shapes-flux", torch.int8), ValueError, ("unknown dtype torch.int8",)),
    # stores
    "Store('2GB')": (lambda: dita.Store("2GB"), ValueError, ("dtype '2GB'", "max_cache_bytes=2000000000")),
    "Store(3)": (lambda: dita.Store(3), ValueError, ("unknown store dtype '3'",)),
    "Store('bfloat61')": (lambda: dita.Store("bfloat61"), ValueError, ("did you mean 'bfloat16'?",)),
    "Store(device='cuda')": (lambda: dita.Store(device="cuda"), ValueError, ("unknown store device 'cuda'",)),
    "Store(max_cache_bytes='2GB')": (
        lambda: dita.Store(max_cache_bytes="2GB"), ValueError, ("max_cache_bytes", "'2GB'", "=2000000000")),
    "Store(max_cache_bytes=True)": (lambda: dita.Store(max_cache_bytes=True), ValueError, ("max_cache_bytes", "True")),
    "Store(max_cache_bytes=2.5)": (lambda: dita.Store(max_cache_bytes=2.5), ValueError, ("max_cache_bytes", "2.5")),
    "Store(max_cache_bytes=[1])": (lambda: dita.Store(max_cache_bytes=[1]), ValueError, ("max_cache_bytes", "[1]")),
    "parse_bytes(None)": (lambda: parse_bytes(None), ValueError, ("a size in bytes", "None")),
    "parse_bytes(2)": (lambda: parse_bytes(2), ValueError, ("a size in bytes", "2")),
    "parse_bytes('3.2')": (lambda: parse_bytes("3.2"), ValueError, ("'3.2' without a unit",)),
    # plots
    "plot_plan('toca')": (lambda: dita.plot_plan("toca"), ValueError, ("plot_plan takes a plan", "'toca'")),
    "plot_plan(method)": (lambda: dita.plot_plan(dita.ToCa()), ValueError, ("plot_plan takes a plan", "ToCa")),
    "plot_plan(theme)": (lambda: dita.plot_plan(_plan(), theme="blue"), ValueError, ("theme must be light or dark",)),
    "plot_plan(width=0)": (lambda: dita.plot_plan(_plan(), width=0), ValueError, ("width must be 1 to 100", "0")),
    "plot_plan(width=nan)": (lambda: dita.plot_plan(_plan(), width=float("nan")), ValueError, ("width", "nan")),
    "plot_plan(width='9')": (lambda: dita.plot_plan(_plan(), width="9"), ValueError, ("width", "'9'")),
    "plot_tokens(None)": (lambda: dita.plot_tokens(None, 0), ValueError, ("record=True", "got None")),
    "plot_tokens(summary)": (lambda: dita.plot_tokens(dita.summary(_ran(), show=False), 0), ValueError, ("record",)),
    "plot_tokens(no record)": (
        lambda: dita.plot_tokens(dita.summary(_ran(), show=False).tokens, 0), ValueError, ("record=True", "None")),
    # jobs
    "compare('toca')": (lambda: _compare("toca"), ValueError, ("methods must be a list", "'toca'")),
    "compare(None)": (lambda: _compare(None), ValueError, ("methods must be a list", "None")),
    "compare([3])": (lambda: _compare([3]), ValueError, ("must be a dita method", "got 3")),
    "compare(prompts='cat')": (lambda: _compare(prompts="cat"), ValueError, ("got the one text 'cat'",)),
    "compare(prompts=[])": (lambda: _compare(prompts=[]), ValueError, ("there are no prompts",)),
    "compare(prompts=[3])": (lambda: _compare(prompts=[3]), ValueError, ("each of the prompts must be a text", "3")),
    "compare(prompts=[''])": (lambda: _compare(prompts=[""]), ValueError, ("not empty, got ''",)),
    "compare(prompts=3)": (lambda: _compare(prompts=3), ValueError, ("prompts must be a list, got 3",)),
    "compare(seeds=-1)": (lambda: _compare(seeds=-1), ValueError, ("seeds must be a whole number", "-1")),
    "compare(seeds='x')": (lambda: _compare(seeds="x"), ValueError, ("seeds must be a whole number", "'x'")),
    "compare(seeds=[1, 2])": (lambda: _compare(seeds=[1, 2]), ValueError, ("one seed for each prompt",)),
    "compare(seeds=[-1])": (lambda: _compare(seeds=[-1]), ValueError, ("each of the seeds", "-1")),
    "compare(steps='3')": (lambda: _compare(steps="3"), ValueError, ("steps must be a whole number", "'3'")),
    "compare(steps=0)": (lambda: _compare(steps=0), ValueError, ("steps must be at least 1", "0")),
    "compare(batch=1.5)": (lambda: _compare(batch=1.5), ValueError, ("batch must be a whole number", "1.5")),
    "compare(repeats=None)": (lambda: _compare(repeats=None), ValueError, ("repeats must be a whole number", "None")),
    "compare(warmup=0)": (lambda: _compare(warmup=0), ValueError, ("warmup must be at least 1", "0")),
    "compare(metrics='psnr')": (lambda: _compare(metrics="psnr"), ValueError, ("metrics must be a list", "'psnr'")),
    "compare(pipe=None)": (lambda: _compare(pipe=None), ValueError, ("made by a diffusers pipeline, got None",)),
    "compare(a transformer)": (lambda: _compare(pipe=_model()), ValueError, ("made by a diffusers pipeline",)),
    "judge_model(name)": (lambda: judge_model("x", "fora"), ValueError, ("made by a diffusers pipeline, got 'x'",)),
    "judge_model(3)": (lambda: judge_model(_pipe(), 3), ValueError, ("must be a dita method", "3")),
    "judge_model(prompts='3')": (lambda: judge_model(_pipe(), "fora", prompts="3"), ValueError, ("prompts", "'3'")),
    "judge_model(seed=-1)": (lambda: judge_model(_pipe(), "fora", seed=-1), ValueError, ("seed", "-1")),
    "judge_images(None)": (lambda: judge_images(None), ValueError, ("in a folder, got None",)),
    "judge_images('gone')": (lambda: judge_images("gone"), FileNotFoundError, ("'gone' holds neither",)),
    "bench(name)": (lambda: bench("cpu-flux", []), ValueError, ("a workload", "'cpu-flux'")),
    "bench(methods)": (lambda: bench(workload("cpu-flux", layers=1), "toca"), ValueError, ("methods must be a list",)),
    "bench(steps='3')": (lambda: bench(workload("cpu-flux", layers=1), [], steps="3"), ValueError, ("steps", "'3'")),
    "compare_folders('a')": (lambda: compare_folders("a", out="out"), ValueError, ("folders must be pairs", "'a'")),
    "open_pictures(None)": (lambda: open_pictures(None), ValueError, ("a folder or an .npz file, got None",)),
    "open_pictures('gone')": (lambda: open_pictures("gone"), FileNotFoundError, ("'gone'",)),
    "evaluate(path)": (lambda: evaluate("gone", [], Networks()), ValueError, ("pictures must be a set", "'gone'")),
    "metrics(None)": (lambda: catalogue.parse(None), ValueError, ("metrics are names", "None")),
    # metrics, studies, bench, demo
    "metrics('fidd')": (lambda: catalogue.parse("fidd"), ValueError, ("did you mean 'fid'?",)),
    "metrics('')": (lambda: catalogue.parse(""), ValueError, ("no metrics were given",)),
    "Networks(weights='gone')": (lambda: Networks("gone"), FileNotFoundError, ("no folder of weights 'gone'",)),
    "Networks(chosen)": (lambda: Networks(chosen={"clipp": "x"}), ValueError, ("did you mean 'clip'?",)),
    "study(cycle=0)": (lambda: STUDIES["selection"]("flux", 0), ValueError, ("cycle", "0")),
    "workload(None)": (lambda: workload(None), ValueError, ("unknown shape None",)),
    "workload(scale=nan)": (lambda: workload("cpu-flux", scale=float("nan")), ValueError, ("scale", "nan")),
    "Limits(steps=0)": (lambda: Limits(steps=0), ValueError, ("steps must be at least 1", "0")),
    "check_address(port=70000)": (lambda: check_address("127.0.0.1", 70000), ValueError, ("from 1 to 65535",)),
    "check_address(port='80')": (lambda: check_address("127.0.0.1", "80"), ValueError, ("port", "'80'")),
    "check_address(host)": (lambda: check_address("999.1.1.1", None), ValueError, ("no address of this machine",)),
}  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "words"), PYTHON.values(), ids=PYTHON)
def test_a_call(call: Callable[[], object], kind: type[Exception], words: tuple[str, ...]) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert not Path("out-of-compare").exists()
    message = str(caught.value)
    assert "\n" not in message and "[Errno" not in message
    for word in words:
        assert word in message


def test_there_are_enough() -> None:
    assert len(COMMANDS) + len(PYTHON) >= 200
