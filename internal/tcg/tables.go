package tcg

func algorithms() map[uint16]string {
	return map[uint16]string{
		0x0000: "ERROR", 0x0001: "RSA", 0x0003: "TDES", 0x0004: "SHA1", 0x0005: "HMAC",
		0x0006: "AES", 0x0007: "MGF1", 0x0008: "KEYEDHASH",
		0x000a: "XOR", 0x000b: "SHA256", 0x000c: "SHA384", 0x000d: "SHA512", 0x000e: "SHA256_192",
		0x0010: "NULL", 0x0012: "SM3_256", 0x0013: "SM4",
		0x0014: "RSASSA", 0x0015: "RSAES", 0x0016: "RSAPSS", 0x0017: "OAEP", 0x0018: "ECDSA",
		0x0019: "ECDH", 0x001a: "ECDAA", 0x001b: "SM2",
		0x001c: "ECSCHNORR", 0x001d: "ECMQV", 0x0020: "KDF1_SP800_56A", 0x0021: "KDF2",
		0x0022: "KDF1_SP800_108", 0x0023: "ECC", 0x0025: "SYMCIPHER",
		0x0026: "CAMELLIA", 0x0027: "SHA3_256", 0x0028: "SHA3_384", 0x0029: "SHA3_512",
		0x002a: "SHAKE128", 0x002b: "SHAKE256", 0x003f: "CMAC",
		0x0040: "CTR", 0x0041: "OFB", 0x0042: "CBC", 0x0043: "CFB", 0x0044: "ECB", 0x0050: "CCM",
		0x0051: "GCM", 0x0060: "EDDSA", 0x0061: "HASH_EDDSA",
		0x0070: "LMS", 0x0071: "XMSS",
	}
}

func curves() map[uint16]string {
	return map[uint16]string{
		0x0000: "NONE", 0x0001: "NIST_P192", 0x0002: "NIST_P224", 0x0003: "NIST_P256",
		0x0004: "NIST_P384", 0x0005: "NIST_P521", 0x0010: "BN_P256", 0x0011: "BN_P638",
		0x0020: "SM2_P256", 0x0030: "BP_P256_R1", 0x0031: "BP_P384_R1", 0x0032: "BP_P512_R1",
		0x0040: "CURVE_25519", 0x0041: "CURVE_448",
	}
}

func structures() map[uint16]string {
	return map[uint16]string{
		0x00c4: "RSP_COMMAND", 0x8000: "NULL", 0x8001: "NO_SESSIONS", 0x8002: "SESSIONS",
		0x8014: "ATTEST_NV", 0x8015: "ATTEST_COMMAND_AUDIT",
		0x8016: "ATTEST_SESSION_AUDIT", 0x8017: "ATTEST_CERTIFY", 0x8018: "ATTEST_QUOTE",
		0x8019: "ATTEST_TIME", 0x801a: "ATTEST_CREATION",
		0x801c: "ATTEST_NV_DIGEST", 0x8021: "CREATION", 0x8022: "VERIFIED", 0x8023: "AUTH_SECRET",
		0x8024: "HASHCHECK", 0x8025: "AUTH_SIGNED", 0x8029: "FU_MANIFEST",
	}
}

// commands are without "TPM2_": those that policies consist of, and those that a user of a TPM
// sends.
func commands() map[uint32]string {
	return map[uint32]string{
		0x120: "EvictControl", 0x122: "NV_UndefineSpace", 0x126: "Clear",
		0x129: "HierarchyChangeAuth", 0x12a: "NV_DefineSpace", 0x131: "CreatePrimary",
		0x137: "NV_Write", 0x139: "DictionaryAttackLockReset", 0x142: "IncrementalSelfTest",
		0x143: "SelfTest", 0x144: "Startup", 0x145: "Shutdown", 0x146: "StirRandom",
		0x147: "ActivateCredential", 0x148: "Certify", 0x149: "PolicyNV", 0x14e: "NV_Read",
		0x150: "ObjectChangeAuth", 0x151: "PolicySecret", 0x153: "Create", 0x154: "ECDH_ZGen",
		0x156: "Import", 0x157: "Load", 0x158: "Quote", 0x159: "RSA_Decrypt", 0x15d: "Sign",
		0x15e: "Unseal", 0x160: "PolicySigned", 0x161: "ContextLoad", 0x162: "ContextSave",
		0x165: "FlushContext", 0x167: "LoadExternal", 0x168: "MakeCredential",
		0x169: "NV_ReadPublic", 0x16a: "PolicyAuthorize", 0x16b: "PolicyAuthValue",
		0x16c: "PolicyCommandCode", 0x16d: "PolicyCounterTimer", 0x16e: "PolicyCpHash",
		0x16f: "PolicyLocality", 0x170: "PolicyNameHash", 0x171: "PolicyOR", 0x172: "PolicyTicket",
		0x173: "ReadPublic", 0x174: "RSA_Encrypt", 0x176: "StartAuthSession",
		0x177: "VerifySignature", 0x17a: "GetCapability", 0x17b: "GetRandom", 0x17c: "GetTestResult",
		0x17d: "Hash", 0x17e: "PCR_Read", 0x17f: "PolicyPCR", 0x180: "PolicyRestart",
		0x181: "ReadClock", 0x182: "PCR_Extend", 0x187: "PolicyPhysicalPresence", 0x188: "PolicyDuplicationSelect",
		0x189: "PolicyGetDigest", 0x18a: "TestParms", 0x18c: "PolicyPassword",
		0x18f: "PolicyNvWritten", 0x190: "PolicyTemplate", 0x192: "PolicyAuthorizeNV",
		0x19b: "PolicyCapability", 0x19c: "PolicyParameters",
	}
}

func capabilities() map[uint32]string {
	return map[uint32]string{
		0x0: "ALGS", 0x1: "HANDLES", 0x2: "COMMANDS", 0x3: "PP_COMMANDS", 0x4: "AUDIT_COMMANDS",
		0x5: "PCRS", 0x6: "TPM_PROPERTIES", 0x7: "PCR_PROPERTIES",
		0x8: "ECC_CURVES", 0x9: "AUTH_POLICIES", 0xa: "ACT",
	}
}

func permanents() map[uint32]string {
	return map[uint32]string{
		0x40000001: "OWNER", 0x40000007: "NULL", 0x40000009: "PW", 0x4000000a: "LOCKOUT",
		0x4000000b: "ENDORSEMENT", 0x4000000c: "PLATFORM", 0x4000000d: "PLATFORM_NV",
	}
}

func handleKinds() map[byte]string {
	return map[byte]string{
		0x00: "PCR handle", 0x01: "NV index", 0x02: "HMAC session", 0x03: "policy session",
		0x40: "permanent handle", 0x80: "transient handle", 0x81: "persistent handle",
	}
}

func attributes() map[int]string {
	return map[int]string{
		1: "fixedTPM", 2: "stClear", 4: "fixedParent", 5: "sensitiveDataOrigin", 6: "userWithAuth",
		7: "adminWithPolicy", 8: "firmwareLimited", 9: "svnLimited",
		10: "noDA", 11: "encryptedDuplication", 16: "restricted", 17: "decrypt", 18: "sign",
		19: "x509sign",
	}
}
