package signer_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"path/filepath"

	"github.com/keyagent/keyagent/signer"
	"github.com/keyagent/keyagent/signer/internal/signertest"
	"github.com/keyagent/keyagent/tpm"
)

// A key is made with its file, and signs as any crypto.Signer does. The next Open loads the same
// key.
func ExampleOpen() {
	ctx := context.Background()
	machine, err := signertest.NewMachine(ctx) // tpm.Open opens a real TPM
	if err != nil {
		fmt.Println(err)
		return
	}
	defer machine.Close()

	key, err := signer.Open(ctx, signer.Config{
		TPM:     machine.TPM,
		KeyFile: filepath.Join(machine.StateDir, "key.pem"),
		Options: tpm.KeyOptions{Algorithm: tpm.ECDSAP256},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer key.Close()

	digest := sha256.Sum256([]byte("message"))
	signature, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		fmt.Println(err)
		return
	}
	public := key.Public().(*ecdsa.PublicKey)
	fmt.Println(key.Info().Algorithm, "in a", key.Info().Strength)
	fmt.Println("verified:", ecdsa.VerifyASN1(public, digest[:], signature))
	fmt.Println("TLS:", key.SignatureSchemes(ctx))
	// Output:
	// ECDSA-P256 in a tpm
	// verified: true
	// TLS: [ECDSAWithP256AndSHA256]
}
