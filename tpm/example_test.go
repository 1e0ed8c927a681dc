package tpm_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyagent/keyagent/simulator/vtpm"
	"github.com/keyagent/keyagent/tpm"
)

// withTPM runs an example with a simulated TPM. With a real one, it would be tpm.Open(ctx,
// tpm.Config{}), and Close.
func withTPM(f func(ctx context.Context, t *tpm.TPM) error) {
	ctx := context.Background()
	err := func() (err error) {
		dir, err := os.MkdirTemp("", "example-")
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
		machine, err := vtpm.Start(ctx, vtpm.Config{Socket: filepath.Join(dir, "tpm.sock"), Azure: true})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, machine.Close()) }()
		t, err := tpm.Open(ctx, tpm.Config{Device: machine.Device()})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, t.Close()) }()
		return f(ctx, t)
	}()
	if err != nil {
		fmt.Println(err)
	}
}

// A key is made in the TPM and lives in a file that only this TPM can load. It signs there.
func ExampleTPM_CreateKey() {
	withTPM(func(ctx context.Context, t *tpm.TPM) error {
		file, err := t.CreateKey(ctx, tpm.KeyOptions{Algorithm: tpm.ECDSAP256})
		if err != nil {
			return err
		}
		read, err := tpm.DecodeKeyFile(file.Encode()) // which was kept on disk meanwhile
		if err != nil {
			return err
		}
		key, err := t.LoadKey(ctx, read, tpm.LoadOptions{})
		if err != nil {
			return err
		}
		defer key.Close()

		digest := sha256.Sum256([]byte("message"))
		signature, err := key.Sign(ctx, tpm2.TPMAlgECDSA, crypto.SHA256, digest[:])
		if err != nil {
			return err
		}
		fmt.Println("verified:", ecdsa.VerifyASN1(key.PublicKey().(*ecdsa.PublicKey), digest[:], signature))
		fmt.Println(tpm.AttributeNames(key.Public().ObjectAttributes))
		return nil
	})
	// Output:
	// verified: true
	// [fixedTPM fixedParent sensitiveDataOrigin userWithAuth noDA sign]
}

// A sequence of commands has the TPM for itself.
func ExampleTPM_Do() {
	withTPM(func(ctx context.Context, t *tpm.TPM) error {
		return t.Do(ctx, func(c transport.TPM) error {
			rsp, err := tpm2.GetRandom{BytesRequested: 8}.Execute(c)
			if err != nil {
				return err
			}
			fmt.Println(len(rsp.RandomBytes.Buffer), "random bytes")
			return nil
		})
	})
	// Output: 8 random bytes
}

// The attestation key of the platform signs the PCRs' values, and a verifier's nonce.
func ExampleTPM_Quote() {
	withTPM(func(ctx context.Context, t *tpm.TPM) error {
		quote, err := t.Quote(ctx, 0x81000003, []int{0, 7}, []byte("nonce")) // where Azure has the key
		if err != nil {
			return err
		}
		statement, err := tpm2.Unmarshal[tpm2.TPMSAttest](quote.Attest)
		if err != nil {
			return err
		}
		fmt.Printf("%d PCRs, %s\n", len(quote.PCRs), statement.ExtraData.Buffer)
		return nil
	})
	// Output: 2 PCRs, nonce
}

// A program can find out whose storage root its keys are under, and demand it at the next start.
func ExampleTPM_StorageRoot() {
	withTPM(func(ctx context.Context, t *tpm.TPM) error {
		root, err := t.StorageRoot(ctx)
		if err != nil {
			return err
		}
		fmt.Printf("%s at 0x%08x, Name of %d bytes for Config.StorageRoot\n", root.Algorithm, uint32(root.Handle), len(root.Name))
		return nil
	})
	// Output: RSA-2048 at 0x81000001, Name of 34 bytes for Config.StorageRoot
}
