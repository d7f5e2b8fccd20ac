"""The gallery: every graph that is shipped, with its words."""

from __future__ import annotations

from demo.gallery import compare, others, wan
from demo.gallery.parts import SMALLER, Recipe, Size

START = "Choose a start image, and write what happens in it."
SMALLER_TYPE = f"In Load Diffusion Model set `weight_dtype` to fp8_e4m3fn. {SMALLER}"
EXPERTS = (
    "Wan 2.2 shares the steps between two experts, one for high noise and one for low. Each has an AdaCache of its "
    "own, since what the one predicts means nothing to the other; the inspector takes both statistics. The weights are "
    "in 8 bits, for cards with 16 to 24 GB: ComfyUI holds one expert at a time."
)
MORE_STEPS = "With more steps in both samplers there is more to skip: 30 steps, the first 15 of them for high noise."

RECIPES = (
    Recipe(
        "Wan2.1_T2V_1.3B",
        "Wan 2.1 1.3B",
        "text to video",
        "The small Wan 2.1 makes five seconds from text, on cards with 12 GB and less.",
        wan.wan_t2v("wan2.1_t2v_1.3B_fp16.safetensors", 8.0, 6.0, Size(832, 480, 81, 16)),
    ),
    Recipe(
        "Wan2.1_T2V_14B",
        "Wan 2.1 14B",
        "text to video",
        "The large Wan 2.1 makes five seconds from text. Its weights are in 8 bits, for cards with 16 to 24 GB.",
        wan.wan_t2v("wan2.1_t2v_14B_fp8_scaled.safetensors", 5.0, 5.0, Size(832, 480, 81, 16)),
    ),
    Recipe(
        "Wan2.1_I2V_14B",
        "Wan 2.1 14B",
        "image to video",
        "The large Wan 2.1 animates an image. Its weights are in 8 bits, for cards with 16 to 24 GB.",
        wan.wan_i2v,
        run=START,
    ),
    Recipe(
        "Wan2.2_T2V_14B",
        "Wan 2.2 14B",
        "text to video, two experts",
        EXPERTS,
        wan.wan_two_experts("t2v", 3.5, 5.0),
        steps=(10, 10),
        extra=MORE_STEPS,
    ),
    Recipe(
        "Wan2.2_I2V_14B",
        "Wan 2.2 14B",
        "image to video, two experts",
        EXPERTS,
        wan.wan_two_experts("i2v", 3.5, 5.0),
        steps=(10, 10),
        run=START,
        extra=MORE_STEPS,
    ),
    Recipe(
        "Wan2.2_TI2V_5B",
        "Wan 2.2 5B",
        "text or image to video",
        "Wan 2.2 5B makes 24 frames per second, from text or from an image, on cards with 12 GB and more.",
        wan.wan_5b,
        run="Write what the video shows. To start from an image, select Load Image and press Ctrl+B.",
    ),
    Recipe(
        "HunyuanVideo_1.5_T2V",
        "HunyuanVideo 1.5",
        "text to video",
        "HunyuanVideo 1.5 makes 720p from text, on cards with 16 to 24 GB.",
        others.hunyuan_video,
        memory=SMALLER_TYPE,
    ),
    Recipe(
        "LTX-Video_2B",
        "LTX-Video 2B",
        "text to video",
        "LTX-Video is small and quick; it runs on cards with 12 GB and less.",
        others.ltx_video,
        run="Write what the video shows, in several sentences: with short prompts this model does badly.",
    ),
    Recipe(
        "LTX-2",
        "LTX-2",
        "text to video with sound",
        "LTX-2 makes video and sound together, for cards with 24 GB, or 16 GB and much main memory. AdaCache skips "
        "both at the same steps.",
        others.ltx_2,
        run="Write what is seen and heard, in several sentences. The sound's length and rate must be the video's.",
    ),
    Recipe(
        "Mochi_1",
        "Mochi 1",
        "text to video",
        "Mochi 1 makes video from text. Its weights are in 8 bits, for cards with 16 to 24 GB.",
        others.mochi,
    ),
    Recipe(
        "Cosmos_Predict2_2B",
        "Cosmos Predict2 2B",
        "image to video",
        "Cosmos Predict2 continues an image as a camera would see it, on cards with 12 GB and more.",
        others.cosmos_predict2,
        steps=(35,),
        run=START,
    ),
    Recipe(
        "CogVideoX_VOID",
        "CogVideoX: VOID",
        "object removal",
        "VOID removes an object, and what it does to its surroundings, from a video. It is a CogVideoX 5B, of which no "
        "other weights are published in the form that ComfyUI itself loads.",
        others.cogvideox,
        run="Choose your video, and its first frame as an image. Right-click the image, *Open in Mask Editor*, paint "
        "over the object and all of its way. Write what shall be seen instead.",
    ),
    Recipe(
        "Kandinsky_5_Lite",
        "Kandinsky 5 Lite",
        "text to video",
        "Kandinsky 5 Lite makes five seconds from text, on cards with 12 GB and more.",
        others.kandinsky,
        steps=(50,),
        memory=SMALLER_TYPE,
    ),
    Recipe(
        "Compare_with_and_without",
        "With and without",
        "one seed, side by side",
        "One video twice, from the same seed: every step computed on the left, AdaCache on the right.",
        compare.with_and_without,
        comparison=True,
        run="Write what the video shows. Both videos are sampled, one after the other.",
    ),
    Recipe(
        "Compare_MoReg",
        "MoReg",
        "one seed, side by side",
        "One video twice, from the same seed: AdaCache on the left, AdaCache with MoReg on the right. MoReg measures "
        "how much moves and computes more steps where that is much, fewer where it is little; compare the inspectors.",
        compare.with_and_without_moreg,
        steps=(30, 30),
        comparison=True,
        run="Write a prompt with fast motion, then one with a still scene.",
    ),
)
