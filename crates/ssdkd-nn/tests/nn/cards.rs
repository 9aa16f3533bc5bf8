//! Cards beside their weights.

use std::path::PathBuf;

use ssdkd_nn::{
    Architecture, CARD_VERSION, ChannelOrder, Interpolation, Names, Network, Normalization, Preprocessing, Resize,
    TeacherCard,
};

use crate::formula::{formula, numbers};
use crate::place::device;

/// A folder with a card and its weights.
struct Model {
    folder: tempfile::TempDir,
    network: Network,
    card: TeacherCard,
}

impl Model {
    fn new() -> Self {
        let mut card = TeacherCard {
            card_version: CARD_VERSION,
            architecture: Architecture::Zoo {
                architecture: "resnet8".parse().unwrap(),
                names: Names { head: "fc".into(), ..Names::default() },
            },
            names: None,
            classes: 3,
            input: [3, 8, 8],
            mean: vec![0.5; 3],
            std: vec![0.25; 3],
            preprocessing: Preprocessing::default(),
            normalization: Normalization::Given,
            class_names: ["a", "b", "c"].map(String::from).to_vec(),
            weights: "model.safetensors".into(),
            digest: String::new(),
            parameters: 0,
            source: "a test".into(),
            license: None,
        };
        let network = Network::create(&card.spec(), 7, &device()).unwrap();
        let bytes = network.store().state_dict().to_safetensors().unwrap();
        card.parameters = network.store().num_parameters();
        card.digest = blake3::hash(&bytes).to_hex().to_string();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
        std::fs::write(folder.path().join("model.json"), card.to_json()).unwrap();
        Self { folder, network, card }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("model.json")
    }
}

#[test]
fn a_card_and_its_weights_make_the_network() {
    let model = Model::new();
    let card = TeacherCard::load(&model.path()).unwrap();
    assert_eq!(card, model.card);
    let network = card.network(&model.path(), &device()).unwrap();
    let images = formula(1, &[2, 8, 8, 3], 0.5);
    assert_eq!(numbers(&network.logits(&images).unwrap()), numbers(&model.network.logits(&images).unwrap()));
}

#[test]
fn a_network_of_bgr_images_to_255_takes_rgb_images_to_1() {
    let model = Model::new();
    let preprocessing = Preprocessing { channels: ChannelOrder::Bgr, range: [0.0, 255.0], ..Preprocessing::default() };
    let (mean, std) = (vec![127.5; 3], vec![63.75; 3]);
    let bgr = TeacherCard { mean, std, preprocessing, ..model.card.clone() }.network(&model.path(), &device()).unwrap();
    let images = formula(1, &[2, 8, 8, 3], 0.5);
    let swapped = ChannelOrder::Bgr.of_rgb(&images).unwrap().contiguous().unwrap();
    let (found, expected) = (numbers(&bgr.logits(&images).unwrap()), numbers(&model.network.logits(&swapped).unwrap()));
    assert!(
        found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-4 * b.abs().max(1.0)),
        "{found:?} {expected:?}"
    );
    assert_ne!(found, numbers(&model.network.logits(&images).unwrap()));
}

#[track_caller]
fn check_refused(from: &str, to: &str, message: &str) {
    let model = Model::new();
    let json = model.card.to_json();
    assert!(json.contains(from), "{from} is not in {json}");
    std::fs::write(model.path(), json.replace(from, to)).unwrap();
    let error = match TeacherCard::load(&model.path()) {
        Ok(card) => card.network(&model.path(), &device()).err().expect("the card should be refused"),
        Err(error) => error,
    };
    let error = error.to_string();
    assert!(error.contains(message) && error.contains(&model.folder.path().display().to_string()), "{error}");
}

#[test]
fn a_card_that_does_not_hold_is_refused() {
    check_refused("\"resnet8\"", "\"resnet9\"", "there is no architecture \"resnet9\"");
    check_refused("\"resnet8\"", "\"resnet14\"", "layer1.1.bn1.bias is missing");
    check_refused("\"fc\"", "\"linear\"", "linear.bias is missing");
    check_refused("\"card_version\": 3", "\"card_version\": 4", "version 4");
    check_refused("\"rgb\"", "\"grb\"", "grb");
    check_refused("\"crop\": null", "\"crop\": [8, 0]", "side of 0 pixels");
    check_refused("\"source\"", "\"sauce\"", "sauce");
    check_refused("\"model.safetensors\"", "\"../model.safetensors\"", "in the card's folder");
    check_refused("\"classes\": 3", "\"classes\": 4", "3 class names for 4 classes");
    let many = (0..256).map(|class| format!("\"{class}\"")).collect::<Vec<_>>().join(",");
    let few = "\"class_names\": [\n    \"a\",\n    \"b\",\n    \"c\"\n  ]";
    let pixels = |json: &str| {
        let json =
            json.replace(few, &format!("\"class_names\": [{many}]")).replace("\"classes\": 3", "\"classes\": 256");
        json.replace("resnet8", "fpn-resnet8")
    };
    let json = pixels(&Model::new().card.to_json());
    let error = TeacherCard::parse(json.as_bytes(), "card.json".as_ref()).unwrap_err().to_string();
    assert!(error.contains("256 classes of pixels"), "{error}");
    check_refused("8\n  ]", "0\n  ]", "input");
    check_refused("0.25", "0.0", "stds above 0");
    check_refused("{", "", "no usable card");
    let parameters = format!("\"parameters\": {}", Model::new().card.parameters);
    check_refused(&parameters, "\"parameters\": 5", "5 parameters");
}

#[test]
fn weights_that_changed_are_refused() {
    let model = Model::new();
    let file = model.folder.path().join("model.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let error = model.card.network(&model.path(), &device()).err().unwrap().to_string();
    assert!(error.contains(&model.card.digest) && error.contains("import them again"), "{error}");

    std::fs::remove_file(&file).unwrap();
    let error = model.card.network(&model.path(), &device()).err().unwrap().to_string();
    assert!(error.contains("model.safetensors") && error.contains("hint:"), "{error}");
}

/// The same card as version 2 had it: without a preprocessing, and with the names of tensors in a field of their own.
fn in_version_2(card: &TeacherCard) -> String {
    let mut json = serde_json::to_value(card).unwrap();
    json.as_object_mut().unwrap().remove("preprocessing").expect("a card has it");
    json["names"] = json["architecture"]["names"].clone();
    json["architecture"] = json["architecture"]["zoo"].clone();
    json["card_version"] = 2.into();
    json.to_string()
}

/// The same card as version 1 had it: it does not say either where the normalization comes from.
fn in_version_1(card: &TeacherCard) -> String {
    let mut json: serde_json::Value = serde_json::from_str(&in_version_2(card)).unwrap();
    json.as_object_mut().unwrap().remove("normalization").expect("a card has it");
    json["card_version"] = 1.into();
    json.to_string()
}

#[test]
fn a_card_of_version_2_has_the_preprocessing_of_its_time() {
    let card = Model::new().card;
    let old = TeacherCard::parse(in_version_2(&card).as_bytes(), "card.json".as_ref()).unwrap();
    assert_eq!(old, TeacherCard { card_version: 2, ..card });
}

#[test]
fn a_card_keeps_its_preprocessing() {
    let preprocessing = Preprocessing {
        channels: ChannelOrder::Bgr,
        range: [0.0, 255.0],
        resize: Some(Resize::ShortSide(256)),
        interpolation: Interpolation::Lanczos,
        crop: Some([224, 192]),
    };
    let card = TeacherCard { preprocessing, ..Model::new().card };
    assert_eq!(TeacherCard::parse(card.to_json().as_bytes(), "card.json".as_ref()).unwrap(), card);
}

#[test]
fn a_card_of_version_1_opens_as_given() {
    let model = Model::new();
    std::fs::write(model.path(), in_version_1(&model.card)).unwrap();
    let card = TeacherCard::load(&model.path()).unwrap();
    assert_eq!((&card.normalization, card.warning(&model.path())), (&Normalization::Given, None));
    assert_eq!(card.names_of_classes(), ["a", "b", "c"]);
    card.network(&model.path(), &device()).unwrap();
}

#[test]
fn numbers_that_version_1_made_up_are_no_names() {
    let mut card = Model::new().card;
    card.class_names = ["0", "1", "2"].map(String::from).to_vec();
    let old = TeacherCard::parse(in_version_1(&card).as_bytes(), "card.json".as_ref()).unwrap();
    assert_eq!((old.names_of_classes().len(), old.class_labels()), (0, card.class_names.clone()));
    assert_eq!(card.names_of_classes(), ["0", "1", "2"], "somebody gave these");
}

#[test]
fn classes_without_names_are_their_indices() {
    let mut card = Model::new().card;
    card.class_names.clear();
    let card = TeacherCard::parse(card.to_json().as_bytes(), "card.json".as_ref()).unwrap();
    assert_eq!((card.names_of_classes().len(), card.class_labels()), (0, ["0", "1", "2"].map(String::from).to_vec()));
}

#[test]
fn an_assumed_normalization_is_warned_of() {
    let model = Model::new();
    let assumed = TeacherCard { normalization: Normalization::Assumed, ..model.card.clone() };
    let again = TeacherCard::parse(assumed.to_json().as_bytes(), &model.path()).unwrap();
    let warning = again.warning(&model.path()).unwrap();
    assert!(warning.contains("assumed") && warning.contains("[0.5, 0.5, 0.5]"), "{warning}");
    let measured = TeacherCard { normalization: Normalization::Measured("pets".into()), ..model.card };
    let again = TeacherCard::parse(measured.to_json().as_bytes(), "card.json".as_ref()).unwrap();
    assert_eq!(
        (again.normalization.to_string().as_str(), again.warning("card.json".as_ref())),
        ("measured on pets", None)
    );
}

#[test]
fn weights_in_the_place_of_a_card_are_told_from_one() {
    let model = Model::new();
    let weights = model.folder.path().join("model.safetensors");
    let error = TeacherCard::load(&weights).unwrap_err().to_string();
    let card = format!("its card is {}", model.path().display());
    assert!(error.contains("is a weight file, not a card") && error.contains(&card), "{error}");

    std::fs::remove_file(model.path()).unwrap();
    let error = TeacherCard::load(&weights).unwrap_err().to_string();
    assert!(error.contains("make its card with `ssdkd import "), "{error}");
}
