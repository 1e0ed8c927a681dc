// Package starts measures how long the agent takes from its start to the first token that a program
// gets, and how many commands it sends to the TPM until then: on a TPM that takes its time, the
// second is the first.
//
//	BenchmarkStartCommands             commands and signatures, beside how many are allowed
//	BenchmarkStartBesideCommands       the time until ready, beside that of the TPM's commands
//	BenchmarkStartBesideFormer         the time beside a former build's, on a TPM made slow
//	BenchmarkStartBesideFormer/latency the same for TPMs from fast to slow, as a series for a plot
//
// Two starts are told apart. The first ever makes the key, has it attested and gets it a
// certificate; a warm one, as after an update or a reboot, finds both in its state directory. The
// production binary is started, as it is installed.
//
// The former build is made of a commit in a git worktree of its own in a temporary folder. Where
// the repository does not have that commit (a shallow clone, an archive), there is nothing to
// compare with, and the benchmark is skipped with that reason.
//
// Both builds have the same platform, the same proxy and the same client, and take turns; the
// median is reported. Only TPM2_Sign is counted and delayed as a signature, because the agent
// decides how often it is sent. The first start ever also has the attestation key sign
// (TPM2_Certify, TPM2_Quote), as often in either build; how the two compare when that is as slow is
// measured as well.
package starts
