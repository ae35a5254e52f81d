"""Every published variant, from frames to actions, against the original code.

Tolerances are the goldens': 1e-4 in float32, 2e-4 for FiLM features, whose LoRA is folded.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from vla_prune_ros import Observation
from vla_prune_ros.errors import CheckpointError, ProfileError
from vla_prune_ros.model.heads import bins_to_actions, denoise
from vla_prune_ros.model.normalization import unnormalize
from vla_prune_ros.model.vision import fold_lora, language_mean
from vla_prune_ros.profiles import LIBERO

ONE_CAMERA = replace(LIBERO, cameras=('primary',), proprio_dim=0, proprio_kind='none')


def close(got, want, atol=1e-4):
    np.testing.assert_allclose(np.asarray(got), want, rtol=0, atol=atol)


@pytest.fixture
def golden(data_dir):
    return lambda name: load_file(data_dir / f'{name}.safetensors')


def aloha_observation(golden):
    frames = golden('micro_aloha/observation')
    cameras = 'primary', 'left_wrist', 'right_wrist'
    names = 'cam_high', 'cam_left_wrist', 'cam_right_wrist'
    images = {c: frames[f'pre256.{n}'] for c, n in zip(cameras, names, strict=True)}
    return Observation(images, frames['state'], 'put the green pepper into the pot')


class TestFilm:
    @torch.inference_mode()
    def test_frames_to_actions_by_stages(self, load_variant, observation, golden):
        policy = load_variant('micro/checkpoint_film')
        model, want = policy.model, golden('micro/film_fp32')
        out = policy.infer(observation)
        assert policy.describe()['film'] is True
        close(out.normalized, want['normalized_actions'][0])
        close(out.actions, want['actions'])
        pixels = torch.from_numpy(golden('micro/l1_fp32')['pixel_values']).view(2, 6, 224, 224)
        ids = torch.cat([torch.from_numpy(want['input_ids_prompt']), torch.tensor([[29871]])], 1)
        table = model.language_model.model.embed_tokens
        mean = language_mean(table(ids), table(torch.tensor([[2]])))
        close(mean[0], want['film_language_mean'])
        trace = []
        model.vision_backbone.featurizer(pixels[:1, :3], mean, trace)
        close(trace[1], want['image0.dino.block0'], 2e-4)
        close(trace[2], want['image0.dino.block1'], 2e-4)
        close(model.vision_backbone(pixels, mean), want['patch_features'], 2e-4)
        close(model.visual_tokens(pixels, ids), want['projected_patches'], 2e-4)

    def test_lora_folds_to_the_sum_of_the_two_paths(self):
        """W x + (16 / r) B A x for a linear layer, and the same for the patch convolution."""
        generator = torch.Generator().manual_seed(0)
        base, down, up, x = (
            torch.randn(s, generator=generator) for s in ((5, 7), (32, 7), (5, 32), (7,))
        )
        torch.testing.assert_close(
            fold_lora(base, down, up) @ x, base @ x + 0.5 * up @ (down @ x), rtol=0, atol=1e-4
        )
        image, down, up = (
            torch.randn(s, generator=generator)
            for s in ((1, 3, 28, 28), (4, 3, 14, 14), (6, 4, 1, 1))
        )
        conv = torch.nn.functional.conv2d
        base = torch.randn(6, 3, 14, 14, generator=generator)
        want = conv(image, base, stride=14) + conv(conv(image, down, stride=14), up)
        got = conv(image, fold_lora(base, down, up), stride=14)  # rank 4: factor 1
        torch.testing.assert_close(got, want, rtol=0, atol=1e-3)


class TestAloha:
    def test_three_cameras_25_steps_and_film(self, load_variant, golden):
        want = golden('micro_aloha/aloha_film_fp32')
        sources = 'micro_aloha/checkpoint', 'micro_aloha/checkpoint_film'
        out = load_variant(*sources, profile='aloha').infer(aloha_observation(golden))
        assert out.actions.shape == (25, 14) and out.visual_tokens == 768
        close(out.normalized, want['normalized_actions'][0])
        close(out.actions, want['actions'])


class TestOneCamera:
    def test_without_proprio(self, load_variant, folder, observation, golden):
        """Selection by the profile; the proprio file of the folder is left alone."""
        out = load_variant(profile=ONE_CAMERA).infer(replace(observation, proprio=None))
        want = golden('micro/l1_1img_noproprio_fp32')
        close(out.normalized, want['normalized_actions'][0])
        close(out.actions, want['actions'])
        assert out.visual_tokens == 256

    def test_without_the_projector_there_is_no_state(self, load_variant, folder, observation):
        want = load_variant(profile=replace(ONE_CAMERA, cameras=LIBERO.cameras))
        (folder / 'proprio_projector--150000_checkpoint.pt').unlink()
        found = load_variant()
        assert found.profile.proprio_kind == 'none' and found.describe()['proprio'] is False
        close(found.infer(observation).actions, want.infer(observation).actions, 0)


class TestDiscrete:
    def test_most_likely_tokens(self, load_variant, observation, golden):
        out = load_variant(head='discrete').infer(observation)
        close(out.actions, golden('micro/discrete_fp32')['actions'])

    def test_bins_are_centres_of_255_intervals(self):
        """Token 31999 is bin 0, 31745 bin 254; ids beyond are clipped."""
        got = bins_to_actions(torch.tensor([31999, 31998, 31745, 31744, 5, 32010]), 32000)
        width = 2 / 255
        first, last = -1 + width / 2, 1 - width / 2
        close(got, [first, first + width, last, last, last, first], 1e-12)


class TestDiffusion:
    @torch.inference_mode()
    def test_each_noise_prediction(self, load_variant, observation, golden):
        """Ten steps along the recorded trajectory: on random weights the sampler is chaotic, so
        that two machines only agree step by step (noise of 3e-7 moves the actions by 8e-4)."""
        policy = load_variant('micro/checkpoint_diffusion')
        model, want = policy.model, golden('micro/diffusion_fp32')
        base = golden('micro/l1_fp32')
        ids = torch.cat([torch.from_numpy(want['input_ids_prompt']), torch.tensor([[29871]])], 1)
        visual = torch.from_numpy(base['projected_patches'])
        state = torch.from_numpy(base['proprio_normalized']).float()[None]
        layout = model.layout(LIBERO.cameras, ids.shape[1], LIBERO.chunk)
        recorded = [torch.from_numpy(p)[None] for p in want['noise_predictions']]
        gaps = []

        def predict(noisy, step):
            x = model.embed(visual, ids, state, layout, noisy=noisy, step=step)
            hidden, _ = model.decode(x, layout, policy.pruner)
            truth = recorded[len(gaps)]
            gaps.append((model.action_head(hidden) - truth).abs().max().item())
            return truth

        out = denoise(torch.from_numpy(want['initial_noise']), predict, 10)
        assert len(gaps) == 10 and max(gaps) < 1e-4
        bounds = policy.statistics.action
        actions = unnormalize(out[0].numpy(), bounds.low, bounds.high, bounds.mask)
        close(actions, want['actions'], 1e-5)

    def test_ten_steps_end_to_end(self, load_variant, observation, golden):
        policy = load_variant('micro/checkpoint_diffusion', diffusion_steps=10)
        want = golden('micro/diffusion_fp32')
        out = policy.infer(observation, noise=want['initial_noise'][0])
        assert policy.describe()['head'] == 'diffusion'
        close(out.actions, want['actions'], 5e-3)  # see above for why not 1e-4

    @pytest.mark.parametrize('steps', [1, 7, 50])
    def test_any_number_of_steps(self, load_variant, observation, steps):
        policy = load_variant('micro/checkpoint_diffusion', diffusion_steps=steps)
        first = policy.infer(observation)
        policy.reset()  # starts the noise anew
        assert np.isfinite(first.actions).all() and np.abs(first.normalized).max() <= 1 + 1e-6
        close(policy.infer(observation).actions, first.actions, 0)

    @pytest.mark.parametrize(
        'option', [{'diffusion_steps': 0}, {'diffusion_steps': 51}, {'head': 'psychic'}]
    )
    def test_impossible_options_are_refused(self, load_variant, option):
        with pytest.raises(ProfileError, match=next(iter(option))):
            load_variant(**option)


class TestContradictions:
    def test_only_without_any_component_it_is_discrete(self, load_variant, folder):
        (folder / 'action_head--150000_checkpoint.pt').unlink()
        with pytest.raises(CheckpointError, match='action_head'):
            load_variant()
        (folder / 'proprio_projector--150000_checkpoint.pt').unlink()
        assert load_variant().describe()['head'] == 'discrete'

    @pytest.mark.parametrize('wish', ['diffusion', 'l1'])
    def test_another_head_than_wished(self, load_variant, wish):
        sources = ('micro/checkpoint_diffusion',) if wish == 'l1' else ()
        with pytest.raises(CheckpointError, match=wish):
            load_variant(*sources, head=wish)

    def test_a_diffusion_head_without_its_projector(self, load_variant, folder):
        load_variant('micro/checkpoint_diffusion')
        (folder / 'noisy_action_projector--150000_checkpoint.pt').unlink()
        with pytest.raises(CheckpointError, match='noisy_action_projector'):
            load_variant()
