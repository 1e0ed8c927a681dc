package signer_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/keyagent/keyagent/tpm/tpmtest"
)

func TestMain(m *testing.M) {
	tpmtest.Relay()
	goleak.VerifyTestMain(m)
}
