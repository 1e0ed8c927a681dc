package keystore_test

import (
	"context"
	"crypto/x509"
	"fmt"

	"github.com/keyagent/keyagent/signer"
	"github.com/keyagent/keyagent/signer/certreq"
	"github.com/keyagent/keyagent/signer/internal/signertest"
	"github.com/keyagent/keyagent/signer/keystore"
	"github.com/keyagent/keyagent/tpm"
)

// A key is rotated: the next generation is made beside the current one, gets a certificate, and is
// switched to when the two have proven to work.
func ExampleStore_FinishRotation() {
	ctx := context.Background()
	machine, err := signertest.NewMachine(ctx) // tpm.Open opens a real TPM
	if err != nil {
		fmt.Println(err)
		return
	}
	defer machine.Close()
	store, err := keystore.Open(keystore.Config{StateDir: machine.StateDir})
	if err != nil {
		fmt.Println(err)
		return
	}
	options := keystore.KeyOptions{KeyOptions: tpm.KeyOptions{Algorithm: tpm.ECDSAP256}}
	if _, err := store.Create(ctx, machine.TPM, "app", options); err != nil {
		fmt.Println(err)
		return
	}

	next, err := store.BeginRotation(ctx, machine.TPM, "app", options)
	if err != nil {
		fmt.Println(err)
		return
	}
	key, err := store.Open(ctx, next, signer.Config{TPM: machine.TPM})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer key.Close()
	chain, err := selfSign(key)
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err := store.Import(ctx, next, key, chain, false); err != nil {
		fmt.Println(err)
		return
	}
	if err := store.FinishRotation(ctx, next, key, keystore.ProveHere(nil)); err != nil {
		fmt.Println(err)
		return
	}

	current, err := store.Current("app")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("in use: generation", current.Generation)
	// Output: in use: generation 2
}

func selfSign(key *signer.Key) ([]*x509.Certificate, error) {
	subject, err := certreq.ParseSubject("CN=app")
	if err != nil {
		return nil, err
	}
	der, err := certreq.SelfSign(key, certreq.SelfSignOptions{Names: certreq.Names{Subject: subject}})
	if err != nil {
		return nil, err
	}
	return certreq.ParseCertificates(der)
}
