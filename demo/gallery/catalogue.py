"""The gallery: every graph that is shipped, with its words."""

from __future__ import annotations

from demo.gallery import compare, demos, images, others, wan
from demo.gallery.parts import SMALLER, Recipe, Size

START = "Choose a start image, and write what happens in it."
SMALLER_TYPE = f"In Load Diffusion Model set *weight_dtype* to fp8_e4m3fn. {SMALLER}"
SMALLER_IMAGE = "A smaller *width* and *height*."
EIGHT_BITS = "The weights are in 8 bits."
EXPERTS = (
    "Wan 2.2 shares the steps between two experts, one for high noise and one for low. Each has an AdaCache of its "
    "own, since what the one predicts means nothing to the other; the inspector takes both statistics. The weights are "
    "in 8 bits; ComfyUI holds one expert at a time."
)
FINER = (
    "Skipped steps cost nothing, so **finer** takes four for each of yours, with as many computed: the result is near "
    "to what {total_finer} steps give, not to what {total} give."
)
NOT_FINER = "**Not for distilled models,** whose steps are what they learned, nor for samplers that add noise."
SEE = "**On your model:** Compare Finer Steps shows it beside more steps, in dB."
MORE_STEPS = "**More steps,** more to skip: 30 in both samplers, the first 15 of them for high noise."
NO_LORA = "**A LoRA for 4 steps** leaves nothing to skip: take it out, or take AdaCache out."
H3 = (
    "MiniMax H3 makes video and sound together, here at ComfyUI's own settings: 20 steps, res_multistep, no guidance. "
    "AdaCache skips picture and sound at the same steps."
)
H3_LENGTH = "The length becomes the next of 5, 22, 39, ... 124, ... frames, at 24 per second."
IMAGE = "Write what the image shows."
WITHOUT_GPU = "Nothing but this repository: a model that draws moving shapes, about 15 seconds without a GPU."

VIDEO_MODELS = (
    Recipe(
        "MiniMax H3", "Text to Video", H3, others.minimax_h3(False), run=f"Write what is seen and heard. {H3_LENGTH}"
    ),
    Recipe(
        "MiniMax H3",
        "Image to Video",
        H3,
        others.minimax_h3(True),
        run=f"Choose a start image, <Picture 1> in the prompt, and write what is seen and heard. {H3_LENGTH}",
    ),
    Recipe(
        "Wan 2.2 14B",
        "Text to Video",
        EXPERTS,
        wan.wan_two_experts("t2v", 3.5, 5.0),
        steps=(10, 10),
        hints=(MORE_STEPS, NO_LORA),
    ),
    Recipe(
        "Wan 2.2 14B",
        "Image to Video",
        EXPERTS,
        wan.wan_two_experts("i2v", 3.5, 5.0),
        steps=(10, 10),
        run=START,
        hints=(MORE_STEPS, NO_LORA),
    ),
    Recipe(
        "Wan 2.2 5B",
        "Text or Image to Video",
        "Wan 2.2 5B makes 24 frames per second, from text or from an image.",
        wan.wan_5b,
        run="Write what the video shows. To start from an image, select Load Image and press Ctrl+B.",
    ),
    Recipe(
        "Wan 2.1 1.3B",
        "Text to Video",
        "The small Wan 2.1 makes five seconds from text.",
        wan.wan_t2v("wan2.1_t2v_1.3B_fp16.safetensors", 8.0, 6.0, Size(832, 480, 81, 16)),
        steps=(30,),
    ),
    Recipe(
        "Wan 2.1 14B",
        "Text to Video",
        f"The large Wan 2.1 makes five seconds from text. {EIGHT_BITS}",
        wan.wan_t2v("wan2.1_t2v_14B_fp8_scaled.safetensors", 5.0, 5.0, Size(832, 480, 81, 16)),
        steps=(30,),
    ),
    Recipe(
        "Wan 2.1 14B",
        "Image to Video",
        f"The large Wan 2.1 animates an image. {EIGHT_BITS}",
        wan.wan_i2v,
        steps=(30,),
        run=START,
    ),
    Recipe(
        "Wan 2.1 1.3B",
        "Text to Video, Finer Steps",
        f"The small Wan 2.1, as 80 steps would make it. {FINER.format(total=20, total_finer=80)}",
        wan.wan_t2v("wan2.1_t2v_1.3B_fp16.safetensors", 8.0, 6.0, Size(832, 480, 81, 16), finer="4"),
        hints=(NOT_FINER, SEE),
        caption="10 computed of 80",
    ),
    Recipe(
        "MiniMax H3",
        "Text to Video, Finer Steps",
        f"{H3} {FINER.format(total=20, total_finer=80)}",
        others.minimax_h3(False, finer="4"),
        run=f"Write what is seen and heard. {H3_LENGTH}",
        hints=(NOT_FINER, SEE),
        caption="10 computed of 80",
    ),
    Recipe(
        "HunyuanVideo 1.5",
        "Text to Video",
        "HunyuanVideo 1.5 makes five seconds of 720p from text.",
        others.hunyuan_video,
        memory=SMALLER_TYPE,
    ),
    Recipe(
        "LTX-2",
        "Text to Video with Sound",
        "The full LTX-2, not the distilled one, makes video and sound together. AdaCache skips both at the same steps.",
        others.ltx_2,
        run="Write what is seen and heard, in several sentences. The sound's length and rate must be the video's.",
        hints=("**Distilled LTX-2,** 8 and 3 steps: nothing to skip, and AdaCache says so.",),
    ),
)
IMAGE_MODELS = (
    Recipe(
        "Qwen-Image 2512",
        "Text to Image",
        f"Qwen-Image of December 2025, with all of its 50 steps. {EIGHT_BITS}",
        images.guided(
            "qwen_image_2512_fp8_e4m3fn.safetensors",
            3.1,
            ("qwen_2.5_vl_7b_fp8_scaled.safetensors", "qwen_image"),
            "qwen_image_vae.safetensors",
            1328,
            "euler",
        ),
        steps=(50,),
        run=IMAGE,
        memory=SMALLER_IMAGE,
        hints=(NO_LORA,),
    ),
    Recipe(
        "FLUX.2 Dev",
        "Text to Image",
        f"FLUX.2 Dev from text. {EIGHT_BITS}",
        images.flux_2,
        run=f"{IMAGE} The size stands in two nodes.",
        memory=SMALLER_IMAGE,
        hints=("**A turbo LoRA** leaves nothing to skip: take it out, or take AdaCache out.",),
    ),
    Recipe(
        "Z-Image",
        "Text to Image",
        "Z-Image, the base model and not Turbo, with ComfyUI's own settings: 25 steps, res_multistep.",
        images.guided(
            "z_image_bf16.safetensors",
            3.0,
            ("qwen_3_4b.safetensors", "lumina2"),
            "ae.safetensors",
            1024,
            "res_multistep",
        ),
        steps=(25,),
        run=IMAGE,
        memory=SMALLER_IMAGE,
    ),
)
TOOLS = (
    Recipe(
        "Compare",
        "With and Without",
        "One video twice, from the same seed: every step computed on the left, AdaCache on the right. The inspector "
        "says how far apart they are, in dB.",
        compare.with_and_without,
        steps=(30,),
        run="Write what the video shows. Both videos are sampled, one after the other.",
        drawn=(None, "balanced"),
        caption="30 steps against 15",
    ),
    Recipe(
        "Compare",
        "MoReg",
        "One video with AdaCache on the left, with AdaCache and MoReg on the right, from the same seed. MoReg measures "
        "how much moves and computes more steps where that is much, fewer where it is little. Both inspectors compare "
        "with a third run, in which every step is computed.",
        compare.with_and_without_moreg,
        steps=(30,),
        runs=2,
        run="Write a prompt with fast motion, then one with a still scene.",
        caption="more steps for what moves",
    ),
    Recipe(
        "Compare",
        "Finer Steps",
        "One video three times, from the same seed: 20 steps, 80 steps, and 10 computed of 80. Both inspectors say how "
        "far theirs is from 80 steps, in dB: whether finer steps are worth it on this model, the numbers tell.",
        compare.finer,
        run="Write what the video shows. All three are sampled, one after the other.",
        runs=2,
        hints=(NOT_FINER, "**Another model:** replace the loaders, and the size."),
        drawn=(None, "balanced"),
        caption="20 steps against 10 of 80",
    ),
    Recipe(
        "Drafts",
        "Eight Seeds, One in Full",
        "Eight videos from one prompt with preset *fast*, then the best of them with every step computed, from the "
        "same noise. The same video, with the detail that a draft lacks.",
        compare.drafts,
        runs=compare.DRAFTS,
        run="Press Run for the drafts, saved as 1 to 8. Set *Which draft*, counted from 0, select *Chosen video*, "
        "press Ctrl+M and Run. The drafts are not sampled again as long as nothing of theirs is changed.",
        hints=("**Here it is *fast*:** eight drafts compute {drafts} steps in place of {all_drafts}.",),
        drawn=("fast",) * compare.DRAFTS + (None,),
        caption="eight drafts, one in full",
    ),
)
RECIPES = (*VIDEO_MODELS, *IMAGE_MODELS, *TOOLS)
DEMOS = (
    Recipe(
        "AdaCache Demo",
        "Without a GPU",
        f"{WITHOUT_GPU} AdaCache stands between the model and the sampler.",
        demos.wan,
        steps=(30,),
        run="Press Run.",
        memory="",
        hints=("**Try** motion *fast* in the scene.", "**In a terminal:** make demo runs this graph and measures it."),
        demo=True,
    ),
    Recipe(
        "AdaCache Demo",
        "Token Refresh",
        f"{WITHOUT_GPU} With **Token Refresh**, steps that would be skipped compute a part of the tokens (*partial* "
        "steps) and take the rest from the last full step.",
        demos.token_refresh,
        steps=(30,),
        run="Press Run.",
        memory="",
        hints=(
            "**Skips instead:** select Token Refresh, press Ctrl+B. Faster, and closer to the uncached video.",
            "**Try** another ratio, or preset *random*, which draws the tokens.",
        ),
        demo=True,
    ),
    Recipe(
        "AdaCache Demo",
        "Long Video",
        "Nothing but this repository: a small autoregressive Wan draws a video block by block, two latent frames at a "
        "time, each block from the frames before it. **AR Cache** keeps the last six latent frames only, so memory and "
        "time per block stay the same; the video has 60, ten times the window. Some minutes without a GPU.",
        demos.causal,
        steps=(12,),
        runs=0,
        run="Press Run.",
        memory="",
        hints=(
            "**Longer:** in *Size and length*; only the time grows.",
            "**A window** of 4, or a wider one: the model was trained on up to 8.",
            "**Compare:** select AR Cache, press Ctrl+B. Bypassed, the cache grows with the video.",
        ),
        drawn=(),
        caption="60 frames, 6 of them kept",
        demo=True,
    ),
)
