//! The containers and pickles that weights come in.

use crate::formula::numbers;
use crate::reading::{check_refused, number_of, read};
use crate::writer::{Writer, call, dict, int, object, text, tuple, zip};

fn network_file() -> (Writer, Vec<u8>) {
    let mut file = Writer::default();
    let root = dict(&file.network("", 1.));
    (file, root)
}

fn pickle(root: &[u8]) -> Vec<u8> {
    [b"\x80\x02", root, b"."].concat()
}

#[test]
fn a_zip_file_may_be_compressed() {
    let (file, root) = network_file();
    assert_eq!(number_of(&read(&file.zip_with(&pickle(&root), b"little", true))), 1.);
}

/// PyTorch writes zip64 end records, 76 bytes long. The directory entry of `data.pkl` has that length, too, in a file
/// whose stem has 21 characters.
#[test]
fn a_zip64_file_is_read_whatever_its_stem() {
    let (file, root) = network_file();
    for length in 19..24 {
        let mut bytes = zip(&file.members(&"a".repeat(length), &pickle(&root), b"little"), false);
        let end = bytes.split_off(bytes.len() - 22);
        let at = bytes.len() as u64;
        bytes.extend([b"PK\x06\x06\x2c", &[0; 7][..], b"\x2d\x00\x2d\x00", &[0; 8]].concat());
        for number in [8..10, 8..10, 12..16, 16..20] {
            bytes.extend(end[number].iter().copied().chain([0; 8]).take(8)); // the old record has two or four bytes
        }
        bytes.extend([b"PK\x06\x07", &[0; 4][..], &at.to_le_bytes(), b"\x01\x00\x00\x00", &end].concat());
        assert_eq!(number_of(&read(&bytes)), 1., "{length}");
    }
}

/// As in a `state_dict` whose entries were all converted to floats.
#[test]
fn a_float_batch_count_becomes_a_whole_number() {
    for (shape, stored, count) in [(&[][..], 391., 391), (&[1], 7., 7), (&[], f32::INFINITY, 0)] {
        let mut file = Writer::default();
        let layer = ("bn1.weight", file.tensor(&[2], 1.));
        let root = dict(&[layer, ("bn1.num_batches_tracked", file.tensor(shape, stored))]);
        let import = read(&file.zip(&root));
        assert_eq!(import.tensors["bn1.num_batches_tracked"].to_scalar::<i64>().unwrap(), count, "{shape:?}");
    }
}

/// A storage of 16 MB of zeros, which takes 16 KB.
#[test]
fn a_zip_bomb_ends() {
    let mut file = Writer::default();
    let root = dict(&[("conv1.weight", file.tensor(&[1 << 22], 0.))]);
    check_refused(&file.zip_with(&pickle(&root), b"little", true), "times as large as the file");
}

#[test]
fn a_damaged_member_is_refused() {
    let (file, root) = network_file();
    let mut bytes = file.zip(&root);
    let at = bytes.windows(8).position(|window| window == [0, 0, 0x80, 0x3f, 0, 0, 0x80, 0x3f]).unwrap();
    bytes[at] ^= 1;
    check_refused(&bytes, "checksum");
}

#[test]
fn numbers_may_have_the_other_byte_order() {
    let mut file = Writer::default();
    let bytes = [1_f32, 2.].map(f32::to_be_bytes).concat();
    let storage = file.storage("FloatStorage", bytes, 2);
    let arguments = [storage, int(0), tuple(&[int(2), int(1)]), tuple(&[int(1), int(1)])];
    let root = dict(&[("fc.weight", call("torch._utils._rebuild_tensor_v2", &arguments))]);
    let import = read(&file.zip_with(&pickle(&root), b"big", false));
    assert_eq!(numbers(&import.tensors["fc.weight"]), [1., 2.]);
}

/// `{"acc": numpy.float64(0.5), "done": {1}, "state_dict": …}` with the instructions of protocol 4.
#[test]
fn newer_protocols_and_numpy_scalars_are_read() {
    let mut file = Writer::default();
    let network = dict(&file.network("", 1.));
    let scalar = b"\x8c\x16numpy._core.multiarray\x94\x8c\x06scalar\x94\x93\x94\x8c\x05numpy\x94\x8c\x05dtype\x94\x93\x94\
                   \x8c\x02f8\x94\x89\x88\x87\x94R\x94(K\x03\x8c\x01<\x94NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t\x94b\
                   C\x08\x00\x00\x00\x00\x00\x00\xe0?\x94\x86\x94R\x94";
    let program = [
        &b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00}(\x8c\x03acc"[..],
        scalar,
        b"\x8c\x04done\x8f(K\x01\x90\x8c\nstate_dict",
        &network,
        b"u.",
    ];
    let import = read(&file.zip_with(&program.concat(), b"little", false));
    assert_eq!((number_of(&import), import.entry.as_deref()), (1., Some("state_dict")));
}

/// The magic number and the protocol of an old stream, with protocol 4.
#[test]
fn old_streams_may_have_newer_protocols() {
    let magic = b"\x80\x04\x95\x0d\x00\x00\x00\x00\x00\x00\x00\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
    let mut file = Writer::default();
    let root = dict(&[("fc.weight", file.tensor(&[1, 2], 7.))]);
    let rest =
        [&b"\x80\x04M\xe9\x03.\x80\x04}."[..], &pickle(&root), b"\x80\x04]X\x01\x00\x00\x000a.", &2_u64.to_le_bytes()];
    let numbers_of_it = [7_f32, 7.].map(f32::to_le_bytes).concat();
    let import = read(&[&magic[..], &rest.concat(), &numbers_of_it].concat());
    assert_eq!(numbers(&import.tensors["fc.weight"]), [7., 7.]);
}

/// `{"fc.weight": numpy.float32([[1, 2], [3, 4]])}`, and the same array in Fortran's order
#[test]
fn numpy_arrays_are_tensors() {
    for (order, expected) in [("C", [1., 2., 3., 4.]), ("F", [1., 3., 2., 4.])] {
        let data = [b"B\x10\x00\x00\x00", &[1_f32, 2., 3., 4.].map(f32::to_le_bytes).concat()[..]].concat();
        let dtype = call("numpy.dtype", &[text("f4"), b"\x89".to_vec(), b"\x88".to_vec()]);
        let arguments = [data, dtype, tuple(&[int(2), int(2)]), text(order)];
        let root = dict(&[("fc.weight", call("numpy.core.numeric._frombuffer", &arguments))]);
        assert_eq!(numbers(&read(&pickle(&root)).tensors["fc.weight"]), expected, "{order}");
    }
}

/// `torch.save(model)`: the modules' dictionaries are read, and no code of their classes.
#[test]
fn a_whole_model_is_read_by_its_modules() {
    let mut file = Writer::default();
    let empty = || dict::<&str>(&[]);
    let module = |parameters: Vec<u8>, modules: Vec<u8>, class: &str| {
        object(class, &[("_parameters", parameters), ("_buffers", empty()), ("_modules", modules)])
    };
    let mut layers = Vec::new();
    for (name, shape) in [("conv1", &[2, 3, 3, 3][..]), ("linear", &[4, 2])] {
        let parameters = dict(&[("weight", file.tensor(shape, 1.)), ("bias", b"N".to_vec())]);
        layers.push((name, module(parameters, empty(), "torch.nn.modules.conv.Conv2d")));
    }
    let model = module(empty(), dict(&layers), "__main__.Net");
    for root in [model.clone(), dict(&[("net", model), ("epoch", int(1))])] {
        let import = read(&file.zip(&root));
        assert_eq!(import.tensors.keys().collect::<Vec<_>>(), ["conv1.weight", "linear.weight"]);
        assert!(import.notices[0].contains("class __main__.Net"), "{:?}", import.notices);
    }
}

#[test]
fn an_object_without_tensors_is_named_with_what_to_do() {
    let root = object("__main__.Net", &[("depth", int(8))]);
    check_refused(&Writer::default().zip(&root), "a whole object (class __main__.Net)");
    check_refused(&Writer::default().zip(&root), "torch.save(state_dict, \"weights.pth\")");
}

#[test]
fn an_archive_around_the_file_is_named() {
    let (file, root) = network_file();
    check_refused(&zip(&[("resnet/weights.pth".into(), file.zip(&root))], false), "holds resnet/weights.pth");
}
