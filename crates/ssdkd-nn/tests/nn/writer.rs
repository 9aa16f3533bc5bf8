//! Writes checkpoints as PyTorch does: pickles of protocol 2 in zip files, with a storage for each tensor.

use std::io::Write as _;

pub(crate) fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

pub(crate) fn int(value: usize) -> Vec<u8> {
    [b"J", &(value as u32).to_le_bytes()[..]].concat()
}

pub(crate) fn tuple(items: &[Vec<u8>]) -> Vec<u8> {
    [b"(", &items.concat()[..], b"t"].concat()
}

pub(crate) fn dict<K: AsRef<str>>(items: &[(K, Vec<u8>)]) -> Vec<u8> {
    let items = items.iter().flat_map(|(key, value)| [text(key.as_ref()), value.clone()]).collect::<Vec<_>>();
    [b"}(", &items.concat()[..], b"u"].concat()
}

/// `module.name(*arguments)`; what stands before the first dot but the last is the module.
pub(crate) fn call(function: &str, arguments: &[Vec<u8>]) -> Vec<u8> {
    let (module, name) = function.rsplit_once('.').unwrap();
    [format!("c{module}\n{name}\n").as_bytes(), &tuple(arguments), b"R"].concat()
}

/// An object of a class, with a dictionary of its attributes.
pub(crate) fn object(class: &str, attributes: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let (module, name) = class.rsplit_once('.').unwrap();
    [format!("c{module}\n{name}\n)").as_bytes(), b"\x81", &dict(attributes), b"b"].concat()
}

/// A checkpoint in the making: the storages of its tensors.
#[derive(Default)]
pub(crate) struct Writer {
    storages: Vec<Vec<u8>>,
}

pub(crate) type Named = Vec<(String, Vec<u8>)>;

/// A network's tensors, the smallest that look like a classifier's.
pub(crate) const NETWORK: [(&str, &[usize]); 5] = [
    ("conv1.weight", &[2, 3, 3, 3]),
    ("bn1.weight", &[2]),
    ("layer1.0.conv1.weight", &[2, 2, 3, 3]),
    ("linear.weight", &[4, 2]),
    ("linear.bias", &[4]),
];

impl Writer {
    /// A reference to a new storage with these bytes.
    pub(crate) fn storage(&mut self, class: &str, bytes: Vec<u8>, count: usize) -> Vec<u8> {
        let class = format!("ctorch\n{class}\n").into_bytes();
        let key = text(&self.storages.len().to_string());
        self.storages.push(bytes);
        [tuple(&[text("storage"), class, key, text("cpu"), int(count)]), b"Q".to_vec()].concat()
    }

    /// A tensor of these numbers.
    pub(crate) fn tensor_of(&mut self, shape: &[usize], numbers: &[f32]) -> Vec<u8> {
        let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let storage = self.storage("FloatStorage", bytes, numbers.len());
        let sides = shape.iter().map(|&side| int(side)).collect::<Vec<_>>();
        let strides = (0..shape.len()).map(|axis| int(shape[axis + 1..].iter().product())).collect::<Vec<_>>();
        let arguments = [storage, int(0), tuple(&sides), tuple(&strides), b"\x89".to_vec(), b"}".to_vec()];
        call("torch._utils._rebuild_tensor_v2", &arguments)
    }

    /// A tensor that has one number everywhere.
    pub(crate) fn tensor(&mut self, shape: &[usize], number: f32) -> Vec<u8> {
        self.tensor_of(shape, &vec![number; shape.iter().product()])
    }

    /// The items of a `state_dict`, all of one number, with `prefix` before each name.
    pub(crate) fn network(&mut self, prefix: &str, number: f32) -> Named {
        NETWORK.iter().map(|(name, shape)| (format!("{prefix}{name}"), self.tensor(shape, number))).collect()
    }

    /// The checkpoint whose pickle is `root`.
    pub(crate) fn zip(&self, root: &[u8]) -> Vec<u8> {
        self.zip_with(&[b"\x80\x02", root, b"."].concat(), b"little", false)
    }

    pub(crate) fn zip_with(&self, pickle: &[u8], byte_order: &[u8], deflated: bool) -> Vec<u8> {
        zip(&self.members("weights", pickle, byte_order), deflated)
    }

    /// The members of a checkpoint in a file that is called `stem`.
    pub(crate) fn members(&self, stem: &str, pickle: &[u8], byte_order: &[u8]) -> Vec<(String, Vec<u8>)> {
        let storages = self.storages.iter().enumerate();
        let storages = storages.map(|(key, bytes)| (format!("{stem}/data/{key}"), bytes.clone()));
        let front = [(format!("{stem}/data.pkl"), pickle.to_vec()), (format!("{stem}/byteorder"), byte_order.to_vec())];
        front.into_iter().chain(storages).collect()
    }
}

/// A zip file with these members.
pub(crate) fn zip(members: &[(String, Vec<u8>)], deflated: bool) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, contents) in members {
        let mut crc = flate2::Crc::new();
        crc.update(contents);
        let mut stored = contents.clone();
        if deflated {
            let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(contents).unwrap();
            stored = encoder.finish().unwrap();
        }
        let (method, offset) = (if deflated { 8_u16 } else { 0 }, file.len() as u32);
        let mut common = [20_u16, 0, method, 0, 0x21].map(u16::to_le_bytes).concat();
        common.extend([crc.sum(), stored.len() as u32, contents.len() as u32].map(u32::to_le_bytes).concat());
        common.extend([name.len() as u16, 0].map(u16::to_le_bytes).concat());
        file.extend([b"PK\x03\x04", &common[..], name.as_bytes(), &stored].concat());
        let rest = [&[0; 10][..], &offset.to_le_bytes()].concat();
        directory.extend([b"PK\x01\x02\x14\x00", &common[..], &rest, name.as_bytes()].concat());
    }
    let count = members.len() as u16;
    let end = [
        [0, 0, count, count].map(u16::to_le_bytes).concat(),
        [directory.len() as u32, file.len() as u32].map(u32::to_le_bytes).concat(),
        vec![0; 2],
    ];
    [file, directory, b"PK\x05\x06".to_vec(), end.concat()].concat()
}
