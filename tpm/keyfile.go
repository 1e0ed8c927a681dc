package tpm

import (
	encoding_asn1 "encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/keyagent/keyagent/internal/pemfile"
	"github.com/keyagent/keyagent/tpm/internal/device"
)

const (
	keyFileType = "TSS2 PRIVATE KEY"
	// maxKeyFileBytes bounds the file. An RSA-2048 key has between 1 and 2 KB, a chain of
	// certificates beside it some 6, more with text.
	maxKeyFileBytes = 64 << 10
)

// keyFileOID is id-loadablekey of the TCG: the kind of key file that TPM2_Load takes.
func keyFileOID() encoding_asn1.ObjectIdentifier {
	return encoding_asn1.ObjectIdentifier{2, 23, 133, 10, 1, 3}
}

// KeyFile is the content of a TPM 2.0 key file, PEM type "TSS2 PRIVATE KEY", which tpm2-tools and
// OpenSSL's tpm2 provider read, too. Its private area is encrypted and authenticated by the TPM
// under the parent's seed: a copy of the file is of no use anywhere else.
//
//	TPMKey ::= SEQUENCE {
//	    type        OBJECT IDENTIFIER,                  -- 2.23.133.10.1.3
//	    emptyAuth   [0] EXPLICIT BOOLEAN OPTIONAL,
//	    policy      [1] EXPLICIT SEQUENCE OF SEQUENCE { -- PolicyPCR and PolicyAuthValue only
//	        commandCode   [0] EXPLICIT INTEGER,
//	        commandPolicy [1] EXPLICIT OCTET STRING } OPTIONAL,
//	    secret      [2] EXPLICIT … OPTIONAL,            -- refused here
//	    authPolicy  [3] EXPLICIT … OPTIONAL,            -- refused here
//	    description [4] EXPLICIT UTF8String OPTIONAL,   -- read over
//	    rsaParent   [5] EXPLICIT BOOLEAN OPTIONAL,      -- refused if TRUE
//	    parent      INTEGER,
//	    pubkey      OCTET STRING,                       -- TPM2B_PUBLIC
//	    privkey     OCTET STRING }                      -- TPM2B_PRIVATE
type KeyFile struct {
	// Parent is 0x40000001 (TPM_RH_OWNER) for the H-2 primary, or a persistent handle. It is where
	// the parent was when the file was written.
	Parent tpm2.TPMHandle
	// EmptyAuth says that the key has no password. It is only a hint: tpm2_encodeobject up to 5.7
	// writes the opposite. The TPM knows.
	EmptyAuth bool
	// Policy is what a policy session must have executed before the key signs.
	Policy []PolicyCommand
	// Public and Private are TPM2B_PUBLIC and TPM2B_PRIVATE, each with its size.
	Public, Private []byte

	// PCRValues are those that [TPM.CreateKey] bound the key to. They are not in the file, which
	// has a digest of them.
	PCRValues PCRValues
	// ParentName is the Name of the storage key that [TPM.CreateKey] made the key under. It is not
	// in the file, which has only a handle.
	ParentName []byte
}

// Encode returns the file as PEM.
func (f *KeyFile) Encode() []byte {
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(keyFileOID())
		// Written also if it is false: OpenSSL's provider takes a missing one for true, and never
		// asks for the password.
		b.AddASN1(asn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) { b.AddASN1Boolean(f.EmptyAuth) })
		f.addPolicy(b)
		b.AddASN1Uint64(uint64(f.Parent))
		b.AddASN1OctetString(f.Public)
		b.AddASN1OctetString(f.Private)
	})
	return pem.EncodeToMemory(&pem.Block{Type: keyFileType, Bytes: b.BytesOrPanic()}) // impossible: nothing here can fail to encode
}

func (f *KeyFile) addPolicy(b *cryptobyte.Builder) {
	if len(f.Policy) == 0 {
		return
	}
	b.AddASN1(asn1.Tag(1).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			for _, c := range f.Policy {
				b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
					b.AddASN1(asn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) { b.AddASN1Uint64(uint64(c.Code)) })
					b.AddASN1(asn1.Tag(1).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) { b.AddASN1OctetString(c.Parameters) })
				})
			}
		})
	})
}

// DecodeKeyFile reads a key file. It takes what the tools write, also as DER, or with text,
// certificates, certificate requests and public keys around it, which are passed over. It refuses
// what it does not understand: policies beyond PCRs and password, wrapped secrets, an RSA primary
// as parent, more than one key.
func DecodeKeyFile(text []byte) (*KeyFile, error) {
	block, err := keyFileBlock(text)
	if err != nil {
		return nil, fmt.Errorf("TPM key file: %w", err)
	}
	f, err := parseKeyFile(block.Bytes)
	if err == nil {
		_, _, err = f.areas()
	}
	if err != nil && block.Line > 1 {
		err = fmt.Errorf("block %q in line %d: %w", keyFileType, block.Line, err)
	}
	if err != nil {
		return nil, fmt.Errorf("TPM key file: %w", err)
	}
	return f, nil
}

// keyFileBlock finds the one key in a file.
func keyFileBlock(text []byte) (key pemfile.Block, err error) {
	blocks, err := pemfile.Read(text, maxKeyFileBytes)
	if err != nil {
		return key, err
	}
	for _, block := range blocks {
		found, err := isKeyFileBlock(block)
		switch {
		case err != nil:
			return key, err
		case found && key.Bytes != nil:
			return key, &pemfile.Error{Line: block.Line, Problem: fmt.Sprintf("a second block %q: leave one key in a file", keyFileType)}
		case found:
			key = block
		}
	}
	if key.Bytes == nil {
		return key, &pemfile.Error{Problem: fmt.Sprintf("there is no PEM block %q in it, only %q", keyFileType, blocks[0].Label)}
	}
	return key, nil
}

// isKeyFileBlock reports whether a block is a TPM's key. Certificates and public keys may stand
// beside it; any other block is refused with an error that names its kind.
func isKeyFileBlock(block pemfile.Block) (bool, error) {
	refuse := func(format string, args ...any) (bool, error) {
		return false, &pemfile.Error{Line: block.Line, Problem: fmt.Sprintf(format, args...)}
	}
	switch label := block.Label; {
	case block.Form != pemfile.PEM || label == keyFileType:
		return true, nil
	case strings.HasSuffix(label, "CERTIFICATE") || strings.HasSuffix(label, "CERTIFICATE REQUEST") || label == "PUBLIC KEY":
		return false, nil
	case block.SoftwareKey():
		return refuse("a block %q is a private key outside of a TPM, which whoever read the file may have; only %q, made in this TPM, is taken", label, keyFileType)
	case label == "TSS KEY BLOB":
		return refuse("a block %q is a key of a TPM 1.2, which a TPM 2.0 cannot load", label)
	case label == "TSS2 KEY BLOB":
		return refuse("a block %q is of a form that was given up before %q: have the program that made it write the key anew", label, keyFileType)
	default:
		return refuse("a block %q is neither a TPM's key nor a certificate; take it out", label)
	}
}

func parseKeyFile(der []byte) (*KeyFile, error) {
	input := cryptobyte.String(der)
	var seq cryptobyte.String
	var oid encoding_asn1.ObjectIdentifier
	if !input.ReadASN1(&seq, asn1.SEQUENCE) || !input.Empty() || !seq.ReadASN1ObjectIdentifier(&oid) {
		return nil, errors.New("not a TPMKey structure")
	}
	if !oid.Equal(keyFileOID()) {
		return nil, fmt.Errorf("key type %v: only loadable keys (%v) are supported", oid, keyFileOID())
	}
	f := new(KeyFile)
	if err := f.readOptions(&seq); err != nil {
		return nil, err
	}
	var parent uint64
	if !seq.ReadASN1Integer(&parent) || parent > math.MaxUint32 {
		return nil, errors.New("parent is not a handle")
	}
	f.Parent = tpm2.TPMHandle(parent)
	if !seq.ReadASN1Bytes(&f.Public, asn1.OCTET_STRING) || !seq.ReadASN1Bytes(&f.Private, asn1.OCTET_STRING) || !seq.Empty() {
		return nil, errors.New("it does not end with a public and a private area")
	}
	return f, nil
}

// readOptions reads the optional members, which come in the order of their tags.
func (f *KeyFile) readOptions(seq *cryptobyte.String) error {
	for _, option := range []struct {
		tag  asn1.Tag
		read func(cryptobyte.String) error
	}{
		{0, f.readEmptyAuth},
		{1, f.readPolicy},
		{2, unsupported("a secret to import it with")},
		{3, unsupported("alternative policies")},
		{4, func(cryptobyte.String) error { return nil }},
		{5, refuseRSAParent},
	} {
		var content cryptobyte.String
		var present bool
		if !seq.ReadOptionalASN1(&content, &present, option.tag.ContextSpecific().Constructed()) {
			return fmt.Errorf("optional member %d is damaged", option.tag)
		}
		if !present {
			continue
		}
		if err := option.read(content); err != nil {
			return err
		}
	}
	return nil
}

func (f *KeyFile) readEmptyAuth(content cryptobyte.String) error {
	v, err := readBoolean(content)
	f.EmptyAuth = v
	return err
}

// maxPolicyCommands bounds a policy; the supported ones have two commands.
const maxPolicyCommands = 8

func (f *KeyFile) readPolicy(content cryptobyte.String) error {
	var list cryptobyte.String
	if !content.ReadASN1(&list, asn1.SEQUENCE) || !content.Empty() || list.Empty() {
		return errors.New("its policy is damaged")
	}
	for !list.Empty() {
		c, ok := readPolicyCommand(&list)
		if !ok || len(f.Policy) == maxPolicyCommands {
			return errors.New("its policy is damaged")
		}
		f.Policy = append(f.Policy, c)
	}
	_, err := parsePolicy(f.Policy)
	return err
}

func readPolicyCommand(list *cryptobyte.String) (c PolicyCommand, ok bool) {
	var command, code, parameters cryptobyte.String
	var number uint64
	ok = list.ReadASN1(&command, asn1.SEQUENCE) &&
		command.ReadASN1(&code, asn1.Tag(0).ContextSpecific().Constructed()) &&
		command.ReadASN1(&parameters, asn1.Tag(1).ContextSpecific().Constructed()) && command.Empty() &&
		code.ReadASN1Integer(&number) && code.Empty() && number <= math.MaxUint32 &&
		parameters.ReadASN1Bytes(&c.Parameters, asn1.OCTET_STRING) && parameters.Empty()
	c.Code = tpm2.TPMCC(number)
	return c, ok
}

func unsupported(what string) func(cryptobyte.String) error {
	return func(cryptobyte.String) error { return fmt.Errorf("it has %s, which is not supported", what) }
}

func refuseRSAParent(content cryptobyte.String) error {
	v, err := readBoolean(content)
	if err == nil && v {
		err = errors.New("its parent is an RSA primary, which is not supported: use the ECC primary or a persistent handle")
	}
	return err
}

// readBoolean reads a BOOLEAN as BER has it: OpenSSL's provider writes TRUE as 01, not as DER's ff.
func readBoolean(content cryptobyte.String) (bool, error) {
	var b cryptobyte.String
	if !content.ReadASN1(&b, asn1.BOOLEAN) || !content.Empty() || len(b) != 1 {
		return false, errors.New("a BOOLEAN is damaged")
	}
	return b[0] != 0, nil
}

// areas returns public and private area as TPM2_Load takes them.
func (f *KeyFile) areas() (tpm2.TPM2BPublic, tpm2.TPM2BPrivate, error) {
	area, err := sized(f.Public)
	if err != nil {
		return tpm2.TPM2BPublic{}, tpm2.TPM2BPrivate{}, fmt.Errorf("public area: %w", err)
	}
	if _, err := parsePublic(area); err != nil {
		return tpm2.TPM2BPublic{}, tpm2.TPM2BPrivate{}, fmt.Errorf("public area: %w", err)
	}
	private, err := sized(f.Private)
	if err != nil {
		return tpm2.TPM2BPublic{}, tpm2.TPM2BPrivate{}, fmt.Errorf("private area: %w", err)
	}
	return tpm2.BytesAs2B[tpm2.TPMTPublic](area), tpm2.TPM2BPrivate{Buffer: private}, nil
}

// sized returns the content of a TPM2B, which must fill all of b and not be empty.
func sized(b []byte) ([]byte, error) {
	s := cryptobyte.String(b)
	var content cryptobyte.String
	if !s.ReadUint16LengthPrefixed(&content) || !s.Empty() || len(content) == 0 {
		return nil, fmt.Errorf("%d bytes do not hold one sized buffer", len(b))
	}
	return content, nil
}

// Name computes the Name that the key has in a TPM (TPM 2.0 Part 1, 16).
func (f *KeyFile) Name() ([]byte, error) {
	public, _, err := f.areas()
	if err != nil {
		return nil, err
	}
	return device.ObjectName(public.Bytes())
}
