package vtpm

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyagent/keyagent/simulator/bootlog"
)

// The platform's persistent handles and NV indices.
const (
	handleSRK       tpm2.TPMHandle = 0x81000001
	handleAK        tpm2.TPMHandle = 0x81000003
	nvHCLReport     tpm2.TPMHandle = 0x01400001
	nvUserData      tpm2.TPMHandle = 0x01400002
	nvAKCertificate tpm2.TPMHandle = 0x01C101D0

	// maxNVIndexBytes is MAX_NV_INDEX_SIZE of the reference TPM.
	maxNVIndexBytes = 2048
	nvChunkBytes    = 1024
)

// boot is what the platform does before the guest starts.
func (t *TPM) boot() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.bootLocked()
}

func (t *TPM) bootLocked() error {
	tpm := locked{t}
	if err := measure(tpm, t.measured); err != nil {
		return fmt.Errorf("measuring the boot: %w", err)
	}
	if !t.azure {
		return nil
	}
	_, err := tpm2.ReadPublic{ObjectHandle: handleSRK}.Execute(tpm)
	if errors.Is(err, tpm2.TPMRCHandle) {
		_, err = persist(tpm, tpm2.TPMRHOwner, tpm2.RSASRKTemplate, handleSRK)
	}
	if err != nil {
		return fmt.Errorf("storage root key: %w", err)
	}
	if err := evict(tpm, handleAK); err != nil {
		return fmt.Errorf("old attestation key: %w", err)
	}
	if t.ak, err = persist(tpm, tpm2.TPMRHEndorsement, akTemplate(), handleAK); err != nil {
		return fmt.Errorf("attestation key: %w", err)
	}
	return nil
}

// measure extends the registers of all banks, as the log has it.
func measure(tpm transport.TPM, log *bootlog.Log) error {
	if log == nil {
		return nil
	}
	for _, e := range log.Events {
		if e.Type == bootlog.NoAction {
			continue
		}
		var digests tpm2.TPMLDigestValues
		for alg, digest := range e.Digests() {
			digests.Digests = append(digests.Digests, tpm2.TPMTHA{HashAlg: tpm2.TPMIAlgHash(alg), Digest: digest})
		}
		_, err := tpm2.PCRExtend{PCRHandle: emptyAuth(tpm2.TPMHandle(e.PCR)), Digests: digests}.Execute(tpm) // #nosec G115 -- a register's number
		if err != nil {
			return err
		}
	}
	return nil
}

// akTemplate is the attestation key of a Confidential VM: attributes 0x00050472.
func akTemplate() tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type:    tpm2.TPMAlgRSA,
		NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM:            true,
			FixedParent:         true,
			SensitiveDataOrigin: true,
			UserWithAuth:        true,
			NoDA:                true,
			Restricted:          true,
			SignEncrypt:         true,
		},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{
			Scheme: tpm2.TPMTRSAScheme{
				Scheme:  tpm2.TPMAlgRSASSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSASSA, &tpm2.TPMSSigSchemeRSASSA{HashAlg: tpm2.TPMAlgSHA256}),
			},
			KeyBits: 2048,
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: make([]byte, 256)}),
	}
}

// persist makes a primary key and puts it at a persistent handle. It returns its TPMT_PUBLIC.
func persist(t transport.TPM, hierarchy tpm2.TPMHandle, template tpm2.TPMTPublic, at tpm2.TPMHandle) ([]byte, error) {
	primary, err := tpm2.CreatePrimary{
		PrimaryHandle: emptyAuth(hierarchy),
		InPublic:      tpm2.New2B(template),
	}.Execute(t)
	if err != nil {
		return nil, err
	}
	_, err = tpm2.EvictControl{
		Auth:             emptyAuth(tpm2.TPMRHOwner),
		ObjectHandle:     tpm2.NamedHandle{Handle: primary.ObjectHandle, Name: primary.Name},
		PersistentHandle: at,
	}.Execute(t)
	_, flushErr := tpm2.FlushContext{FlushHandle: primary.ObjectHandle}.Execute(t)
	return primary.OutPublic.Bytes(), errors.Join(err, flushErr)
}

// evict removes the object at a persistent handle, if there is one.
func evict(t transport.TPM, at tpm2.TPMHandle) error {
	there, err := tpm2.ReadPublic{ObjectHandle: at}.Execute(t)
	if errors.Is(err, tpm2.TPMRCHandle) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = tpm2.EvictControl{
		Auth:             emptyAuth(tpm2.TPMRHOwner),
		ObjectHandle:     tpm2.NamedHandle{Handle: at, Name: there.Name},
		PersistentHandle: at,
	}.Execute(t)
	return err
}

func emptyAuth(h tpm2.TPMHandle) tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: h, Name: tpm2.HandleName(h), Auth: tpm2.PasswordAuth(nil)}
}

// AKPublic returns the TPMT_PUBLIC of the attestation key. Nil without Azure's layout.
func (t *TPM) AKPublic() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return bytes.Clone(t.ak)
}

// SetAKCertificate puts the attestation key's certificate into NV index 0x01C101D0, in its exact
// length, at most 2048 bytes. An older one is replaced. Like all of the platform's indices it has
// an authorization value that nobody knows, and is readable with owner authorization.
func (t *TPM) SetAKCertificate(ctx context.Context, der []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if len(der) == 0 || len(der) > maxNVIndexBytes {
		return fmt.Errorf("AK certificate of %d bytes: this TPM holds 1 to %d in an index", len(der), maxNVIndexBytes)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := undefine(locked{t}, nvAKCertificate); err != nil {
		return fmt.Errorf("removing the old AK certificate: %w", err)
	}
	if err := defineAndWrite(locked{t}, platformIndex(nvAKCertificate, len(der)), der); err != nil {
		return fmt.Errorf("writing the AK certificate: %w", err)
	}
	return nil
}

// platformIndex is the public area of an NV index as the paravisor defines its own.
func platformIndex(index tpm2.TPMHandle, size int) tpm2.TPMSNVPublic {
	return tpm2.TPMSNVPublic{
		NVIndex: index,
		NameAlg: tpm2.TPMAlgSHA256,
		Attributes: tpm2.TPMANV{
			NT: tpm2.TPMNTOrdinary, AuthRead: true, AuthWrite: true, OwnerRead: true, PlatformCreate: true, NoDA: true,
		},
		DataSize: uint16(size), // #nosec G115 -- at most maxNVIndexBytes
	}
}

func undefine(t transport.TPM, index tpm2.TPMHandle) error {
	public, err := tpm2.NVReadPublic{NVIndex: index}.Execute(t)
	if errors.Is(err, tpm2.TPMRCHandle) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = tpm2.NVUndefineSpace{
		AuthHandle: emptyAuth(tpm2.TPMRHPlatform),
		NVIndex:    tpm2.NamedHandle{Handle: index, Name: public.NVName},
	}.Execute(t)
	return err
}

// defineAndWrite makes an index with an authorization value that is forgotten afterwards.
func defineAndWrite(t transport.TPM, public tpm2.TPMSNVPublic, data []byte) error {
	auth := make([]byte, 8)
	_, _ = rand.Read(auth) // never fails
	_, err := tpm2.NVDefineSpace{
		AuthHandle: emptyAuth(tpm2.TPMRHPlatform),
		Auth:       tpm2.TPM2BAuth{Buffer: auth},
		PublicInfo: tpm2.New2B(public),
	}.Execute(t)
	for offset := 0; err == nil && offset < len(data); offset += nvChunkBytes {
		err = writeNV(t, public.NVIndex, auth, data, offset)
	}
	return err
}

// writeNV writes one chunk. The index' Name changes with the first one, so it is read each time.
func writeNV(t transport.TPM, index tpm2.TPMHandle, auth, data []byte, offset int) error {
	public, err := tpm2.NVReadPublic{NVIndex: index}.Execute(t)
	if err != nil {
		return err
	}
	_, err = tpm2.NVWrite{
		AuthHandle: tpm2.AuthHandle{Handle: index, Name: public.NVName, Auth: tpm2.PasswordAuth(auth)},
		NVIndex:    tpm2.NamedHandle{Handle: index, Name: public.NVName},
		Data:       tpm2.TPM2BMaxNVBuffer{Buffer: data[offset:min(len(data), offset+nvChunkBytes)]},
		Offset:     uint16(offset), // #nosec G115 -- below maxNVIndexBytes
	}.Execute(t)
	return err
}
