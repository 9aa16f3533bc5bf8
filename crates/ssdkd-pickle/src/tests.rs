//! The bytes of each test are those that Python 3.11 and NumPy 2 write.

use crate::{Array, Object, read};

#[track_caller]
fn check_nested(bytes: &[u8]) {
    let (pickle, length) = read(bytes).unwrap();
    assert_eq!(length, bytes.len());
    let root = pickle.root();
    assert_eq!(root.get("b").unwrap().text(), Some("\u{e4}"));
    let list = root.get("a").unwrap();
    assert_eq!(list.element(0).unwrap().int(), Some(1));
    assert_eq!(list.element(1).unwrap().object(), &Object::Float(2.5));
    assert_eq!(list.element(2).unwrap().object(), &Object::None);
    assert_eq!(list.element(3).unwrap().bool(), Some(true));
    assert_eq!(list.element(4).unwrap().bytes().unwrap()[..], [0xff, 0]);
    assert_eq!(list.element(5).unwrap().int(), Some(-1 << 40));
    assert_eq!(list.elements().unwrap().len(), 6);
}

/// `pickle.dumps({"a": [1, 2.5, None, True, b"\xff\0", -2**40], "b": "\u{e4}"}, protocol)`
#[test]
fn every_protocol_is_read() {
    check_nested(b"(dp0\nVa\np1\n(lp2\nI1\naF2.5\naNaI01\nac_codecs\nencode\np3\n(V\xff\x5cu0000\np4\nVlatin1\np5\ntp6\nRp7\naL-1099511627776L\nasVb\np8\nV\xe4\np9\ns.");
    check_nested(b"}q\x00(X\x01\x00\x00\x00aq\x01]q\x02(K\x01G@\x04\x00\x00\x00\x00\x00\x00NI01\nc_codecs\nencode\nq\x03(X\x03\x00\x00\x00\xc3\xbf\x00q\x04X\x06\x00\x00\x00latin1q\x05tq\x06Rq\x07L-1099511627776L\neX\x01\x00\x00\x00bq\x08X\x02\x00\x00\x00\xc3\xa4q\x09u.");
    check_nested(b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01]q\x02(K\x01G@\x04\x00\x00\x00\x00\x00\x00N\x88c_codecs\nencode\nq\x03X\x03\x00\x00\x00\xc3\xbf\x00q\x04X\x06\x00\x00\x00latin1q\x05\x86q\x06Rq\x07\x8a\x06\x00\x00\x00\x00\x00\xffeX\x01\x00\x00\x00bq\x08X\x02\x00\x00\x00\xc3\xa4q\x09u.");
    check_nested(b"\x80\x03}q\x00(X\x01\x00\x00\x00aq\x01]q\x02(K\x01G@\x04\x00\x00\x00\x00\x00\x00N\x88C\x02\xff\x00q\x03\x8a\x06\x00\x00\x00\x00\x00\xffeX\x01\x00\x00\x00bq\x04X\x02\x00\x00\x00\xc3\xa4q\x05u.");
    check_nested(b"\x80\x05\x950\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x01a\x94]\x94(K\x01G@\x04\x00\x00\x00\x00\x00\x00N\x88C\x02\xff\x00\x94\x8a\x06\x00\x00\x00\x00\x00\xffe\x8c\x01b\x94\x8c\x02\xc3\xa4\x94u.");
}

/// `numpy.float32([[1, 2], [3, 4]])`
#[test]
fn numpy_arrays_are_read() {
    let expected = [1_f32, 2., 3., 4.].map(f32::to_le_bytes).concat();
    let programs: [&[u8]; 4] = [
        b"cnumpy._core.multiarray\n_reconstruct\np0\n(cnumpy\nndarray\np1\n(I0\ntp2\nc_codecs\nencode\np3\n(Vb\np4\nVlatin1\np5\ntp6\nRp7\ntp8\nRp9\n(I1\n(I2\nI2\ntp10\ncnumpy\ndtype\np11\n(Vf4\np12\nI00\nI01\ntp13\nRp14\n(I3\nV<\np15\nNNNI-1\nI-1\nI0\ntp16\nbI00\ng3\n(V\x5cu0000\x5cu0000\x80?\x5cu0000\x5cu0000\x5cu0000@\x5cu0000\x5cu0000@@\x5cu0000\x5cu0000\x80@\np17\ng5\ntp18\nRp19\ntp20\nb.",
        b"\x80\x02cnumpy._core.multiarray\n_reconstruct\nq\x00cnumpy\nndarray\nq\x01K\x00\x85q\x02c_codecs\nencode\nq\x03X\x01\x00\x00\x00bq\x04X\x06\x00\x00\x00latin1q\x05\x86q\x06Rq\x07\x87q\x08Rq\x09(K\x01K\x02K\x02\x86q\ncnumpy\ndtype\nq\x0bX\x02\x00\x00\x00f4q\x0c\x89\x88\x87q\x0dRq\x0e(K\x03X\x01\x00\x00\x00<q\x0fNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x10b\x89h\x03X\x12\x00\x00\x00\x00\x00\xc2\x80?\x00\x00\x00@\x00\x00@@\x00\x00\xc2\x80@q\x11h\x05\x86q\x12Rq\x13tq\x14b.",
        b"\x80\x04\x95\x9b\x00\x00\x00\x00\x00\x00\x00\x8c\x16numpy._core.multiarray\x94\x8c\x0c_reconstruct\x94\x93\x94\x8c\x05numpy\x94\x8c\x07ndarray\x94\x93\x94K\x00\x85\x94C\x01b\x94\x87\x94R\x94(K\x01K\x02K\x02\x86\x94h\x03\x8c\x05dtype\x94\x93\x94\x8c\x02f4\x94\x89\x88\x87\x94R\x94(K\x03\x8c\x01<\x94NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t\x94b\x89C\x10\x00\x00\x80?\x00\x00\x00@\x00\x00@@\x00\x00\x80@\x94t\x94b.",
        b"\x80\x05\x95\x86\x00\x00\x00\x00\x00\x00\x00\x8c\x13numpy._core.numeric\x94\x8c\x0b_frombuffer\x94\x93\x94(\x96\x10\x00\x00\x00\x00\x00\x00\x00\x00\x00\x80?\x00\x00\x00@\x00\x00@@\x00\x00\x80@\x94\x8c\x05numpy\x94\x8c\x05dtype\x94\x93\x94\x8c\x02f4\x94\x89\x88\x87\x94R\x94(K\x03\x8c\x01<\x94NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t\x94bK\x02K\x02\x86\x94\x8c\x01C\x94t\x94R\x94.",
    ];
    for program in programs {
        let (pickle, _) = read(program).unwrap();
        let array = pickle.root().array().unwrap();
        let data = expected.as_slice().into();
        assert_eq!(array, Array { dtype: "f4", big_endian: false, shape: vec![2, 2], fortran: false, data });
    }
}

/// `numpy.asarray([1, 2], ">i2")`, with protocol 4
#[test]
fn the_byte_order_of_a_numpy_array_is_kept() {
    let (pickle, _) = read(b"\x80\x04\x95\x8d\x00\x00\x00\x00\x00\x00\x00\x8c\x16numpy._core.multiarray\x94\x8c\x0c_reconstruct\x94\x93\x94\x8c\x05numpy\x94\x8c\x07ndarray\x94\x93\x94K\x00\x85\x94C\x01b\x94\x87\x94R\x94(K\x01K\x02\x85\x94h\x03\x8c\x05dtype\x94\x93\x94\x8c\x02i2\x94\x89\x88\x87\x94R\x94(K\x03\x8c\x01>\x94NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t\x94b\x89C\x04\x00\x01\x00\x02\x94t\x94b.").unwrap();
    let array = pickle.root().array().unwrap();
    assert_eq!(
        (array.dtype, array.big_endian, &array.shape[..], &array.data[..]),
        ("i2", true, &[2][..], &[0, 1, 0, 2][..])
    );
}

/// `numpy.float64(0.5)`, with protocols 2 and 4
#[test]
fn numpy_scalars_are_arrays_without_sides() {
    let programs: [&[u8]; 2] = [
        b"\x80\x02cnumpy._core.multiarray\nscalar\nq\x00cnumpy\ndtype\nq\x01X\x02\x00\x00\x00f8q\x02\x89\x88\x87q\x03Rq\x04(K\x03X\x01\x00\x00\x00<q\x05NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x06bc_codecs\nencode\nq\x07X\x09\x00\x00\x00\x00\x00\x00\x00\x00\x00\xc3\xa0?q\x08X\x06\x00\x00\x00latin1q\x09\x86q\nRq\x0b\x86q\x0cRq\x0d.",
        b"\x80\x04\x95j\x00\x00\x00\x00\x00\x00\x00\x8c\x16numpy._core.multiarray\x94\x8c\x06scalar\x94\x93\x94\x8c\x05numpy\x94\x8c\x05dtype\x94\x93\x94\x8c\x02f8\x94\x89\x88\x87\x94R\x94(K\x03\x8c\x01<\x94NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t\x94bC\x08\x00\x00\x00\x00\x00\x00\xe0?\x94\x86\x94R\x94.",
    ];
    for program in programs {
        let (pickle, _) = read(program).unwrap();
        let scalar = pickle.root().array().unwrap();
        assert_eq!((scalar.dtype, scalar.shape.len(), &scalar.data[..]), ("f8", 0, &0.5_f64.to_le_bytes()[..]));
    }
}

/// `{frozenset([7]), 8}` with protocol 4
#[test]
fn sets_are_sequences() {
    let (pickle, _) = read(b"\x80\x04\x95\x0c\x00\x00\x00\x00\x00\x00\x00\x8f\x94(K\x08(K\x07\x91\x94\x90.").unwrap();
    let mut elements = pickle.root().elements().unwrap().collect::<Vec<_>>();
    elements.sort_by_key(|element| element.kind());
    assert_eq!(elements[0].element(0).unwrap().int(), Some(7));
    assert_eq!(elements[1].int(), Some(8));
}

#[test]
fn a_str_of_python_2_is_bytes_where_it_is_no_text() {
    let (pickle, _) = read(b"\x80\x02U\x02\xff\xfe.").unwrap();
    assert_eq!(pickle.root().object(), &Object::Bytes(vec![0xff, 0xfe]));
    let (pickle, _) = read(b"S'a\\'\\xff\\n'\n.").unwrap();
    assert_eq!(pickle.root().object(), &Object::Bytes(b"a'\xff\n".into()));
}

#[test]
fn the_later_of_two_values_under_one_key_counts() {
    let (pickle, _) = read(b"\x80\x03}(X\x01\x00\x00\x00aK\x01C\x01aK\x02u.").unwrap();
    assert_eq!(pickle.root().get("a").unwrap().int(), Some(2));
}

#[test]
fn calls_are_written_down_and_not_made() {
    let (pickle, _) = read(b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R.").unwrap();
    let call = pickle.root();
    assert_eq!((call.function(), call.argument(0).unwrap().text()), (Some("os.system"), Some("ls")));
}

/// A class of its own, and one with the instruction of protocol 0.
#[test]
fn the_state_of_an_object_is_kept() {
    let programs: [&[u8]; 3] = [
        b"\x80\x02c__main__\nNet\n)\x81}X\x01\x00\x00\x00aK\x07sb.",
        b"(i__main__\nNet\n}X\x01\x00\x00\x00aK\x07sb.",
        b"\x80\x04c__main__\nNet\n)}\x92}X\x01\x00\x00\x00aK\x07sb.",
    ];
    for program in programs {
        let (pickle, _) = read(program).unwrap();
        let object = pickle.root();
        assert_eq!(object.function(), Some("__main__.Net"));
        assert_eq!(object.state().unwrap().get("a").unwrap().int(), Some(7));
    }
}

#[test]
fn values_are_taken_twice_and_thrown_away() {
    let (pickle, _) = read(b"K\x01(K\x02K\x0312\x86.").unwrap();
    assert_eq!(pickle.root().elements().unwrap().map(super::value::Value::int).collect::<Vec<_>>(), [Some(1); 2]);
}

#[test]
fn broken_programs_are_refused() {
    let programs: [&[u8]; 17] = [
        b"",
        b".",
        b"K",
        b"(",
        b"t.",
        b"h\x05.",
        b"K\x01a.",
        b"X\xff\xff\xff\xffa.",
        b"\x99.",
        b"K\x01s.",
        b"(0.",
        b"2.",
        b"1.",
        b"(o.",
        b"S'\\x4'\n.",
        b"Ione\n.",
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\xff.",
    ];
    for program in programs {
        assert!(read(program).is_err(), "{program:?}");
    }
}

/// 300 bytes of text, which each repetition of five bytes would double: 'h0', 'h0', STACK_GLOBAL.
#[test]
fn a_long_name_is_not_multiplied() {
    let text = [b"X\x2c\x01\x00\x00".as_slice(), &[b'a'; 300], b"q\x00"].concat();
    let program = [text, b"h\x00h\x00\x93".repeat(1000), b".".to_vec()].concat();
    assert!(read(&program).unwrap_err().contains("names a class"));
}
