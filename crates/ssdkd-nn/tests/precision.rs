//! Frozen networks and generators whose activations are bf16, on a GPU: close to the same in f32. A program of its own, as the
//! setting is one for all of a program.

#[path = "../../ssdkd-ops/tests/common/place.rs"]
mod place;

use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Tensor};
use ssdkd_nn::random::{normal_tensor, stream};
use ssdkd_nn::{Generator, Mode, Network, NetworkSpec, Store};
use ssdkd_ops as ops;
use ssdkd_ops::Value;

/// A GPU, for one test at a time: they change its settings.
fn device() -> Option<(Device, MutexGuard<'static, ()>)> {
    static ALONE: Mutex<()> = Mutex::new(());
    let device = place::device();
    if !device.is_cuda() {
        eprintln!("skipped: activations in bf16 are for a GPU");
        return None;
    }
    Some((device, ALONE.lock().unwrap_or_else(PoisonError::into_inner)))
}

fn set_bf16(bf16: bool) {
    #[cfg(feature = "cuda")]
    ops::set_cuda_settings(ops::CudaSettings { bf16, ..ops::cuda_settings() });
    #[cfg(not(feature = "cuda"))]
    unreachable!("there is a GPU, and bf16 is {bf16}");
}

/// Of zero mean and a spread of one; the same for the same seed.
fn normal(seed: u64, shape: &[usize], device: &Device) -> Tensor {
    normal_tensor(&mut stream(seed, "numbers", &[]), shape, device).unwrap()
}

/// How far `found` is from `wanted`, as a share of its length.
fn apart(found: &Value, wanted: &Value) -> f32 {
    let [found, wanted] = [found, wanted].map(|x| ops::to_f32(x).unwrap().tensor().flatten_all().unwrap());
    let length = |x: &Tensor| x.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
    length(&(&found - &wanted).unwrap()) / length(&wanted)
}

fn close(what: &str, found: &Value, wanted: &Value, within: f32) {
    let apart = apart(found, wanted);
    assert!(apart > 0.0, "{what}: the same to the last bit, so nothing was rounded");
    assert!(apart < within, "{what}: {apart} of its length apart");
}

fn constant(tensor: &Tensor) -> Value {
    Value::constant(tensor.clone())
}

#[test]
fn frozen_networks() {
    let Some((device, _alone)) = device() else { return };
    set_bf16(true);
    for name in ["resnet8", "wrn-10-1", "vgg11", "fpn-resnet8"] {
        let side = if name == "vgg11" { 32 } else { 16 };
        let spec = NetworkSpec {
            architecture: name.parse().unwrap(),
            classes: 4,
            input: [3, side, side],
            mean: vec![0.4, 0.5, 0.6],
            std: vec![0.2, 0.25, 0.3],
            preprocessing: ssdkd_nn::Preprocessing::default(),
        };
        let network = Network::create(&spec, 1, &device).unwrap();
        // Statistics of images like those that come, so that activations are of the size of trained networks'; and not of the
        // same, as distances of nearly 0 have gradients of chance.
        let images = normal(2, &[6, side, side, 3], &device).affine(0.2, 0.5).unwrap();
        let seen = normal(3, &[6, side, side, 3], &device).affine(0.3, 0.4).unwrap();
        for _ in 0..20 {
            network.forward(&constant(&seen), Mode::Train).unwrap();
        }
        let frozen = Network::load(&spec, network.store().state_dict(), &device).unwrap().frozen();

        // As a teacher that labels, and as one that is inverted.
        let plain = |network: &Network| network.forward(&constant(&images), Mode::Eval).unwrap();
        let (wanted, found) = (plain(&network), plain(&frozen));
        close(&format!("{name}: logits"), &found.logits, &wanted.logits, 0.05);
        close(&format!("{name}: features"), &found.features, &wanted.features, 0.03);
        assert_eq!(found.logits.tensor().dtype(), DType::F32);
        assert_eq!(found.features.tensor().dtype(), DType::F32);
        for (found, wanted) in found.maps.iter().zip(&wanted.maps) {
            assert_eq!(found.tensor().dtype(), DType::BF16);
            close(&format!("{name}: a map"), found, wanted, 0.03);
        }

        let look = |network: &Network, images: &Tensor| {
            let leaf = Value::leaf(images);
            let ssdkd_nn::Output { logits, taps, .. } = network.forward(&leaf, Mode::Tapped).unwrap();
            let targets = vec![1_u32; logits.dims()[0]];
            let mut terms = vec![(1.0, ops::cross_entropy(&logits, &targets, None).unwrap())];
            for tap in &taps {
                for (seen, kept) in [(&tap.mean, &tap.running_mean), (&tap.variance, &tap.running_variance)] {
                    terms.push((0.1, ops::l2_distance(seen, kept).unwrap()));
                }
            }
            let loss = ops::weighted_sum(&terms.iter().map(|(factor, term)| (*factor, term)).collect::<Vec<_>>());
            let gradient = constant(loss.unwrap().backward().unwrap().get(images).unwrap());
            (taps, gradient)
        };
        let ((wanted, wanted_gradient), (found, gradient)) = (look(&network, &images), look(&frozen, &images));
        for (found, wanted) in found.iter().zip(&wanted) {
            close(&format!("{name}: a mean"), &found.mean, &wanted.mean, 0.03);
            close(&format!("{name}: a variance"), &found.variance, &wanted.variance, 0.03);
        }
        // A ReLU near 0 lets a gradient through or not, and deep networks have many: that of other images by a 256th is as far.
        let noise = normal(6, images.dims(), &device).affine(1.0 / 256.0, 1.0).unwrap();
        let (_, of_others) = look(&network, &(&images * noise).unwrap());
        let within = 2.0 * apart(&of_others, &wanted_gradient);
        assert!(within < 1.0, "{name}: {within}");
        assert_eq!(gradient.tensor().dtype(), DType::F32);
        close(&format!("{name}: the images' gradient"), &gradient, &wanted_gradient, within);
    }
}

/// The weights stay f32 and get gradients in f32: a step of an optimizer smaller than the last bit of a bf16 is none too small.
#[test]
fn generators() {
    let Some((device, _alone)) = device() else { return };
    let look = |bf16: bool| {
        set_bf16(bf16);
        let store = Store::seeded(&device, 3);
        let generator = Generator::new(8, 16, [16, 16], 3, &store).unwrap();
        let images = generator.forward(&constant(&normal(4, &[6, 8], &device)), Mode::Train).unwrap();
        let kept = images.detach();
        let mut gradients = images.backward_from(normal(5, &[6, 16, 16, 3], &device)).unwrap();
        let of = store.parameters().into_iter().map(|(name, var)| (name, gradients.remove(&var).expect("a gradient")));
        (kept, of.collect::<Vec<_>>())
    };
    let ((wanted, wanted_gradients), (found, gradients)) = (look(false), look(true));
    assert_eq!(found.tensor().dtype(), DType::F32);
    close("images", &found, &wanted, 0.02);
    for ((name, found), (_, wanted)) in gradients.iter().zip(&wanted_gradients) {
        assert_eq!(found.dtype(), DType::F32, "{name}");
        close(name, &constant(found), &constant(wanted), 0.1);
    }
}
