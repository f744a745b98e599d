//! Tests of the database with a sealed column.

use std::process::Command;

#[test]
fn a_thousand_cards_open_and_two_swapped_ones_do_not() {
    let output = Command::new(env!("CARGO_BIN_EXE_column")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let refused = "the message's encryption context has a different value for \"row\" than expected";
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        format!(
            "inserted 1000 customers: 1000 requests to the key provider so far, 0 saved\n\
             read their cards: 2000 requests to the key provider so far, 0 saved\n\
             read them again: 2000 requests to the key provider so far, 1000 saved\n\
             customer 1 after a swap: {refused}\n\
             customer 2 after a swap: {refused}\n"
        )
    );
}
