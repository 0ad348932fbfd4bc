// What needs no Android: it is also compiled and compared with apps/golden on any machine, see apps/check.sh.
plugins {
    id("org.jetbrains.kotlin.jvm")
}

kotlin {
    jvmToolchain(17)
}

dependencies {
    compileOnly("org.json:json:20240303") // Android has these classes
    testImplementation("org.json:json:20240303")
}

tasks.register<JavaExec>("checkGolden") {
    classpath = sourceSets["test"].runtimeClasspath
    mainClass.set("nas.clip.CheckGoldenKt")
    args("${rootDir}/../golden")
}
