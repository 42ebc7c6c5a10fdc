// Upload a file, train on it and watch the run, knowing nothing of gradsight but its .proto files.
//
//   node train.mjs FILE TEXT_COLUMN TARGET_COLUMN [ADDRESS]
//
// Prints one JSON line per event and exits with 0 when the job succeeded.

import { createHash, randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const [file, textColumn, targetColumn, address = "127.0.0.1:7117"] = process.argv.slice(2);
if (!targetColumn) {
  console.error("usage: node train.mjs FILE TEXT_COLUMN TARGET_COLUMN [ADDRESS]");
  process.exit(2);
}

const protos = join(dirname(fileURLToPath(import.meta.url)), "..", "..", "protos");
const contract = grpc.loadPackageDefinition(
  loader.loadSync(["gradsight/v1/training_service.proto", "gradsight/v1/artifact_service.proto"], {
    includeDirs: [protos], keepCase: true, longs: Number, enums: String, oneofs: true,
  }),
).gradsight.v1;
const training = new contract.TrainingService(address, grpc.credentials.createInsecure());
const artifacts = new contract.ArtifactService(address, grpc.credentials.createInsecure());
const call = (client, method, request) =>
  promisify(client[method].bind(client))(request, { deadline: Date.now() + 10_000 });

const dataset = await upload(file);
const { job } = await call(training, "CreateJob", {
  request_id: randomUUID(),
  spec: {
    name: "from-node",
    model: { builtin: { text_classifier: {} } },
    data: { train: { artifact: dataset }, input_columns: [textColumn], target_column: targetColumn },
    budget: { epochs: 3 },
  },
});
console.log(JSON.stringify({ created: job.job_id }));
process.exitCode = (await watch(job.job_id)) === "JOB_STATE_SUCCEEDED" ? 0 : 1;

// Content is stored by digest: what is already there is not sent again.
async function upload(path) {
  const content = readFileSync(path);
  const digest = "sha256:" + createHash("sha256").update(content).digest("hex");
  const { upload_id } = await call(artifacts, "CreateUpload", {
    digest, size_bytes: content.length, filename: basename(path), kind: "ARTIFACT_KIND_DATASET",
  });
  if (!upload_id) return digest;
  const chunk = 512 * 1024;
  await new Promise((resolve, reject) => {
    const stream = artifacts.WriteUpload((error) => (error ? reject(error) : resolve()));
    for (let offset = 0; offset < content.length; offset += chunk) {
      stream.write({ upload_id, offset, data: content.subarray(offset, offset + chunk) });
    }
    stream.end();
  });
  return digest;
}

// A watch ends with OK only after the job has ended; on UNAVAILABLE, go on after the last sequence seen.
async function watch(job_id) {
  let sequence = 0;
  let state = "JOB_STATE_UNSPECIFIED";
  for (;;) {
    try {
      for await (const frame of training.WatchJob({ job_id, after_sequence: sequence })) {
        if (frame.frame !== "event") continue;
        sequence = frame.event.sequence;
        if (frame.event.kind === "state_changed") state = frame.event.state_changed.state;
        console.log(JSON.stringify({ sequence, kind: frame.event.kind, ...summary(frame.event) }));
      }
      return state;
    } catch (error) {
      if (error.code !== grpc.status.UNAVAILABLE) throw error;
      await new Promise((resolve) => setTimeout(resolve, 500));
    }
  }
}

function summary(event) {
  if (event.kind === "state_changed") return { state: event.state_changed.state };
  if (event.kind === "steps_recorded") {
    const { first_step, loss, gradient_norm } = event.steps_recorded;
    return { step: first_step + loss.length - 1, loss: loss.at(-1), gradient_norm: gradient_norm.at(-1) };
  }
  if (event.kind === "evaluation_completed") {
    const { split, error_ratio } = event.evaluation_completed;
    return { split, error_ratio };
  }
  return {};
}
