package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/tpm"
)

// This file has small programs that scripts need around them.

func complain(err error) int {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// hang listens on a Unix socket and answers nobody, until it is terminated.
func hang(path string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	listener, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { _ = listener.Close() })
	for {
		conn, err := listener.Accept()
		if err != nil {
			return nil // it is terminated
		}
		defer conn.Close() //nolint:gocritic // they stay open until then
	}
}

// mtlsServer serves TLS for localhost until it is terminated. Its port is in dir/name.port, its
// certificate in dir/name.pem. The one with the name "ask" demands client certificates.
func mtlsServer(dir, name string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	certificate, err := serverCertificate()
	if err != nil {
		return err
	}
	cfg := &tls.Config{Certificates: []tls.Certificate{certificate}}
	if name == "ask" {
		cfg.ClientAuth = tls.RequireAnyClientCert
	}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", cfg)
	if err != nil {
		return err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificate[0]})
	port := strconv.Itoa(listener.Addr().(*net.TCPAddr).Port)
	err = errors.Join(
		os.WriteFile(filepath.Join(dir, name+".pem"), text, 0o600),
		os.WriteFile(filepath.Join(dir, name+".port"), []byte(port), 0o600))
	if err != nil {
		return err
	}
	server := &http.Server{Handler: http.NotFoundHandler(), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func serverCertificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// extendPCR changes a PCR of the platform in dir, as another boot would.
func extendPCR(dir, number string) error {
	pcr, err := strconv.ParseUint(number, 10, 8)
	if err != nil {
		return err
	}
	on, err := tpm.Open(context.Background(), tpm.Config{Device: "unix:" + filepath.Join(dir, "tpm.sock")})
	if err != nil {
		return err
	}
	defer on.Close()
	return on.Do(context.Background(), func(c transport.TPM) error {
		_, err := tpm2.PCRExtend{
			PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)},
			Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: make([]byte, 32)}}},
		}.Execute(c)
		return err
	})
}

// relayTPM is what tpm2-tools' "cmd" transport starts: it joins its standard streams with a TPM's
// socket.
func relayTPM(socket string) error {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(conn, os.Stdin) // ends with the tool
		os.Exit(0)
	}()
	_, err = io.Copy(os.Stdout, conn)
	return err
}

// fakeAgent answers as the agent does to who wants to start a program, until it is terminated. The
// identity decides what: "vm" is given, and others are refused, or answered as they are named.
func fakeAgent(socket string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	listener, err := new(net.ListenConfig).Listen(ctx, "unix", socket)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+wire.PathEndpoint, func(w http.ResponseWriter, r *http.Request) {
		query := r.URL.Query()
		endpoint := wire.Endpoint{
			Identity: query.Get(wire.ParamIdentity), Lifetime: query.Get(wire.ParamLifetime),
			Secret: wire.NewSecret("s3cret"), AppService: "http://127.0.0.1:840/msi/token", IMDS: "http://127.0.0.1:841",
		}
		switch endpoint.Identity {
		case "elsewhere":
			endpoint.AppService = "http://192.0.2.1/msi/token"
		case "vm", "app":
		default:
			problem := wire.NewProblem(wire.CodeNotAllowed, "no rule")
			if endpoint.Identity == "unitless" {
				problem = wire.NewProblem(wire.CodeInvalidParameter, "no unit")
				problem.Field = wire.ParamLifetime
			}
			w.Header().Set("Content-Type", wire.ContentTypeProblem)
			w.WriteHeader(problem.Status)
			_ = json.NewEncoder(w).Encode(problem)
			return
		}
		_ = json.NewEncoder(w).Encode(endpoint)
	})
	mux.HandleFunc("GET "+wire.PathIdentities, func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode([]wire.Identity{{Name: "app", ClientID: "c0ffee00-0000-4000-8000-0000000000aa"}})
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
