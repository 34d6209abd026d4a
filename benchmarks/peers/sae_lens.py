"""Autoencoders trained by SAELens' trainer, with the learning rate and its decay of ours."""

import contextlib
import io

from torch import Tensor

from pipeline.methods.sae.training import SaeRecipe


def trained(batches: list[Tensor], recipe: SaeRecipe) -> dict[str, Tensor]:
    """Weights after a step on each batch."""
    from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    config = TopKTrainingSAEConfig(
        d_in=batches[0].shape[1], d_sae=recipe.n_features, k=recipe.k, apply_b_dec_to_input=True
    )
    sae = TopKTrainingSAE(config)
    trainer = SAETrainer(
        SAETrainerConfig(
            total_training_samples=sum(map(len, batches)),
            train_batch_size_samples=len(batches[0]),
            lr=recipe.learning_rate,
            lr_end=0.0,
            lr_decay_steps=len(batches) // 5,
        ),
        sae,
        iter(batches),
    )
    with contextlib.redirect_stderr(io.StringIO()):
        trainer.fit()
    # TopK is taken of pre-activations times the lengths of the decoder's rows.
    lengths = sae.W_dec.norm(dim=-1)
    encoder, decoder = sae.W_enc * lengths, sae.W_dec / lengths[:, None]
    return {
        "encoder": encoder,
        "encoder_bias": sae.b_enc * lengths - sae.b_dec @ encoder,
        "decoder": decoder,
        "decoder_bias": sae.b_dec,
    }
