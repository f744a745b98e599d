//! File to file: the command and the library's readers and writers, compared with a plain loop of reading and writing.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::Path,
    process::{Command, Stdio},
};

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use kms_envelope::{EncryptionContext, Envelope, RawAes};
use pollster::block_on;
use tokio::io::AsyncWriteExt;

const MIB: usize = 1 << 20;
const LEN: usize = 512 * MIB;

/// In memory, if the system has a file system for that.
fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}

fn command(arguments: &[&str], input: &Path, output: &Path) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kms-envelope"));
    command.args(arguments).arg("-o").args([output, input]).stderr(Stdio::null());
    assert!(command.status().unwrap().success());
}

fn copy(mut input: impl Read, mut output: impl Write, batch: &mut [u8]) -> io::Result<()> {
    loop {
        match input.read(batch)? {
            0 => return Ok(()),
            len => output.write_all(&batch[..len])?,
        }
    }
}

fn files(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("files");
    group.throughput(Throughput::Bytes(LEN as u64)).sample_size(10).sampling_mode(SamplingMode::Flat);
    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    let (plain, sealed, out, key_file) = (path("plain"), path("sealed"), path("out"), path("key"));
    fs::write(&plain, vec![1; LEN]).unwrap();
    let key = key_file.to_str().unwrap();
    let made = Command::new(env!("CARGO_BIN_EXE_kms-envelope")).args(["keygen", key]).stderr(Stdio::null()).status();
    assert!(made.unwrap().success());
    command(&["seal", "--key", key], &plain, &sealed);
    let envelope = Envelope::new(RawAes::generate("bench", "key").unwrap());
    let (context, mut batch) = (EncryptionContext::from([("tenant", "acme")]), vec![1; MIB]);
    let library_sealed = path("library-sealed");
    // The output file already exists, so that all benchmarks write to memory that was used before.
    fs::write(&out, vec![1; LEN + MIB]).unwrap();
    let rewrite = || File::options().write(true).open(&out).unwrap();

    group.bench_function("plain loop", |bencher| {
        bencher.iter(|| copy(File::open(&plain).unwrap(), rewrite(), &mut batch).unwrap());
    });
    group.bench_function("std seal", |bencher| {
        bencher.iter(|| {
            let mut writer = block_on(envelope.seal_writer(rewrite(), &context)).unwrap();
            copy(File::open(&plain).unwrap(), &mut writer, &mut batch).unwrap();
            writer.finish().unwrap()
        });
    });
    let mut writer = block_on(envelope.seal_writer(File::create(&library_sealed).unwrap(), &context)).unwrap();
    copy(File::open(&plain).unwrap(), &mut writer, &mut batch).unwrap();
    writer.finish().unwrap();
    group.bench_function("std open", |bencher| {
        bencher.iter(|| {
            let reader = block_on(envelope.open_reader(File::open(&library_sealed).unwrap(), &context)).unwrap();
            copy(reader, rewrite(), &mut batch).unwrap();
        });
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
    group.bench_function("tokio copy", |bencher| {
        bencher.iter(|| {
            runtime.block_on(async {
                let mut input = tokio::io::BufReader::with_capacity(MIB, tokio::fs::File::open(&plain).await.unwrap());
                let mut output = tokio::fs::File::from_std(rewrite());
                tokio::io::copy_buf(&mut input, &mut output).await.unwrap();
                output.flush().await.unwrap();
            });
        });
    });
    group.bench_function("tokio seal", |bencher| {
        bencher.iter(|| {
            runtime.block_on(async {
                let mut input = tokio::io::BufReader::with_capacity(MIB, tokio::fs::File::open(&plain).await.unwrap());
                let output = tokio::fs::File::from_std(rewrite());
                let mut writer = envelope.seal_async_writer(output, &context).await.unwrap();
                tokio::io::copy_buf(&mut input, &mut writer).await.unwrap();
                writer.shutdown().await.unwrap();
            });
        });
    });
    drop(fs::remove_file(&out));
    // The command creates a new file each time, and so does the loop to compare with.
    group.bench_function("plain loop new file", |bencher| {
        bencher.iter(|| {
            copy(File::open(&plain).unwrap(), File::create(path("new")).unwrap(), &mut batch).unwrap();
            fs::rename(path("new"), &out).unwrap();
        });
    });
    group.bench_function("command seal", |bencher| {
        bencher.iter(|| command(&["seal", "--key", key], &plain, &out));
    });
    group.bench_function("command open", |bencher| {
        bencher.iter(|| command(&["open", "--key", key], &sealed, &out));
    });
    group.finish();
}

criterion_group!(benches, files);
criterion_main!(benches);
