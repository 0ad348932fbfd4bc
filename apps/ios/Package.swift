// swift-tools-version: 5.9
import PackageDescription

let package = Package(
    name: "NasClip",
    platforms: [.iOS(.v17), .macOS(.v14)],
    products: [
        .library(name: "NasClip", targets: ["NasClip"]),
        .executable(name: "nas-clip", targets: ["nas-clip"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.3.0")
    ],
    targets: [
        .target(name: "NasClip"),
        .executableTarget(
            name: "nas-clip",
            dependencies: [
                "NasClip",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ]
        ),
        .testTarget(name: "NasClipTests", dependencies: ["NasClip"]),
    ]
)
