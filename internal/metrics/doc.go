// Package metrics counts what the agent does, for Prometheus.
//
// [Metrics] is the one registry. The parts of the agent know nothing of it: each has a small
// interface that it tells what happened ([acquire.Observer], [tpm.Observer], [agentapi.Metrics]),
// and [Metrics] implements them. What is a number only at the moment (an expiry, the length of a
// queue) is not kept, but asked for when somebody reads the metrics.
//
// # Invariants
//
//   - Labels are names of the configuration, codes of the agent, and names of TPM commands. What a
//     caller chooses is never one, so the number of time series is bounded by the configuration.
//   - No metric holds a secret, a token or a part of one.
//   - Without names, as everybody on the machine may read them, the labels identity and credential
//     are left out. Of what is the same then, counters are added up, and of gauges the lowest is
//     told: the certificate that expires first, the identity that is not ready.
//   - Nothing is served here, and nothing is registered globally.
//
// docs/metrics.md lists all names; a test compares it with what is counted. Prometheus' own library
// is the reference in tests: told the same, it writes the same lines, and its parser and linter
// read each page. ADR 0037 says why it is not linked.
//
// # Sources
//
// Prometheus, "Metric and label naming", "Writing client libraries", "Text-based exposition format"
// 0.0.4.
package metrics
