"""ConceptAttention's numbers: `python tests/data/make_concept_attention.py PATH`, a checkout of its repository.

Its FLUX model is given the weights of the small diffusers model and what that was handed at each step of a run, and its
own functions embed the concepts and make the maps. Its pipeline class loads published weights alone, for pictures of
1024 pixels; the model, the embedding and the maps are what it runs. Needs einops.
"""

import torch
from peers import PROMPT, STEPS, bare_package, checkout, keep, seed, stub

folder = checkout(__doc__)
stub("matplotlib.pyplot", "sklearn.metrics")
bare_package("concept_attention", folder / "concept_attention")
bare_package("concept_attention.flux", folder / "concept_attention" / "flux")
bare_package("concept_attention.flux.flux.src.flux", folder / "concept_attention/flux/flux/src/flux")

from concept_attention.flux.dit import FluxParams, ModifiedFluxDiT
from concept_attention.heatmap_utils import compute_heatmaps_from_vectors
from concept_attention.utils import embed_concepts

import steady

CONCEPTS = ["dog", "frog", "grass", "sky"]
RUN = {"height": 64, "width": 64, "max_sequence_length": 32}
SAME = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
}
IN_BLOCK = {
    "img_mod.lin": ["norm1.linear"],
    "txt_mod.lin": ["norm1_context.linear"],
    "img_attn.qkv": ["attn.to_q", "attn.to_k", "attn.to_v"],
    "txt_attn.qkv": ["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"],
    "img_attn.proj": ["attn.to_out.0"],
    "txt_attn.proj": ["attn.to_add_out"],
    "img_mlp.0": ["ff.net.0.proj"],
    "img_mlp.2": ["ff.net.2"],
    "txt_mlp.0": ["ff_context.net.0.proj"],
    "txt_mlp.2": ["ff_context.net.2"],
}
NORMS = {
    "img_attn.norm.query_norm": "attn.norm_q",
    "img_attn.norm.key_norm": "attn.norm_k",
    "txt_attn.norm.query_norm": "attn.norm_added_q",
    "txt_attn.norm.key_norm": "attn.norm_added_k",
}


def theirs(transformer):
    """Their model with the weights of diffusers', as far as the blocks of two streams."""
    config, depth = transformer.config, len(transformer.transformer_blocks)
    model = ModifiedFluxDiT(
        FluxParams(
            in_channels=config.in_channels,
            vec_in_dim=config.pooled_projection_dim,
            context_in_dim=config.joint_attention_dim,
            hidden_size=transformer.inner_dim,
            mlp_ratio=4.0,
            num_heads=config.num_attention_heads,
            depth=depth,
            depth_single_blocks=0,
            axes_dim=list(config.axes_dims_rope),
            theta=10_000,
            qkv_bias=True,
            guidance_embed=True,
        )
    ).eval()
    own, weights = transformer.state_dict(), {}
    for kind in ("weight", "bias"):
        weights |= {f"{name}.{kind}": own[f"{source}.{kind}"] for name, source in SAME.items()}
        for i in range(depth):
            here, there = f"double_blocks.{i}.", f"transformer_blocks.{i}."
            for name, sources in IN_BLOCK.items():
                weights[f"{here}{name}.{kind}"] = torch.cat([own[f"{there}{source}.{kind}"] for source in sources])
            for name, source in NORMS.items():
                weights[f"{here}{name}.scale"] = own[f"{there}{source}.weight"]
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all(name.startswith("final_layer") for name in missing), missing
    return model


def maps(dicts, grid):
    image, concept = (
        torch.stack([torch.stack([layer[f"output_space_{kind}_vectors"] for layer in step]) for step in dicts])
        for kind in ("image", "concept")
    )
    layers, steps = list(range(image.shape[1])), list(range(len(dicts)))
    return compute_heatmaps_from_vectors(image, concept, layers, steps, *grid)[0]


pipe = steady.flux()
calls = []
handle = pipe.transformer.register_forward_pre_hook(
    lambda _, args, arguments: calls.append(arguments), with_kwargs=True
)
pipe(PROMPT, num_inference_steps=STEPS, generator=seed(), output_type="latent", **RUN)
handle.remove()
model = theirs(pipe.transformer)
embeddings, ids, zeros = embed_concepts(
    lambda text: pipe._get_clip_prompt_embeds(text),
    lambda text: pipe._get_t5_prompt_embeds(text, max_sequence_length=RUN["max_sequence_length"]),
    CONCEPTS,
)
arrays = {"vectors": embeddings[0]}
for name, pooled in {"zeros": zeros, "prompt": calls[0]["pooled_projections"]}.items():
    dicts = []
    for arguments in calls:
        _, found = model(
            img=arguments["hidden_states"],
            img_ids=arguments["img_ids"][None],
            txt=arguments["encoder_hidden_states"],
            txt_ids=arguments["txt_ids"][None],
            concepts=embeddings,
            concept_ids=ids,
            concept_vec=pooled,
            timesteps=arguments["timestep"],
            y=arguments["pooled_projections"],
            guidance=arguments["guidance"],
            stop_after_multimodal_attentions=True,
        )
        dicts.append(found)
    arrays[name] = maps(dicts, (16, 16))
print("the pooled vector moves the maps by", float((arrays["zeros"] - arrays["prompt"]).abs().max()))
keep("concept_attention", "helblazer811/ConceptAttention at db30c4d", arrays)
