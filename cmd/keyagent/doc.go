// Command keyagent hands out Microsoft Entra tokens that were obtained with a
// key that cannot leave this Confidential VM's TPM.
//
// One daemon per VM, "keyagent serve", owns the key. token, exec and status talk to it
// over a local Unix socket; key, cert and doctor use the TPM and the state
// directory beside it. This package is flags and wiring: a file for each
// subcommand, no logic. It alone names commands and flags: the packages below
// advise what to do next (internal/advice), and words.go turns that into
// command lines.
//
// Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 refused by
// policy, 4 agent not reachable.
package main
