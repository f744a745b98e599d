//! The database with a sealed column.

use std::process::Command;

#[test]
fn a_thousand_cards_come_back_and_two_that_were_swapped_do_not_open() {
    let output = Command::new(env!("CARGO_BIN_EXE_column")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let refused = "the message's encryption context has another value for \"row\" than expected";
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
