// Package statedir opens the agent's state directory and the TPM that its keys are in.
package statedir
